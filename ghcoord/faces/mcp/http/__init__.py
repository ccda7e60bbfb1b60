"""The MCP server over HTTP: who may call, from where, and what becomes of calls whose client is gone."""
