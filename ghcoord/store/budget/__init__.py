"""What watches over a server's limits."""
