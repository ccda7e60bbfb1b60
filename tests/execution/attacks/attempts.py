"""The attempts: each works on a machine without a sandbox, and none may work in one."""

from __future__ import annotations

from tests.execution.attacks.attempt import Attempt

SECRETS = [
    Attempt(
        "read a file outside",
        "a file that anybody may read",
        "breach(A['secret'] in open(A['secret_file']).read())",
    ),
    Attempt(
        "read another session",
        "files of another session, which belong to the same user",
        "breach(A['secret'] in open(A['other'] + '/notes').read())",
    ),
    Attempt(
        "read through a link",
        "a symbolic link in the workspace leads nowhere else",
        "os.symlink(A['secret_file'], 'link'); breach(A['secret'] in open('link').read())",
    ),
    Attempt(
        "read through a hard link",
        "a hard link of a file outside cannot be made",
        "os.link(A['secret_file'], os.path.join(os.path.dirname(A['secret_file']), 'hard'))\n"
        "breach(A['secret'] in open(os.path.join(os.path.dirname(A['secret_file']), 'hard')).read())",
    ),
    Attempt(
        "read through a process's root",
        "/proc/PID/root and cwd of processes outside",
        "for name in ('root' + A['secret_file'], 'cwd' + A['secret_file']):\n"
        "    try: breach(A['secret'] in open(f\"/proc/{A['victim']}/{name}\").read())\n"
        "    except OSError: pass",
    ),
    Attempt(
        "read another process's environment",
        "secrets in /proc/PID/environ",
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    try: breach(A['secret'].encode() in open(f'/proc/{pid}/environ', 'rb').read())\n"
        "    except OSError: pass",
    ),
    Attempt(
        "read another process's arguments",
        "secrets in /proc/PID/cmdline",
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    try: breach(A['secret'].encode() in open(f'/proc/{pid}/cmdline', 'rb').read())\n"
        "    except OSError: pass",
    ),
    Attempt(
        "read the worker's variables",
        "the worker's environment is not inherited",
        "breach(A['secret'] == os.environ.get(A['variable']))",
    ),
    Attempt(
        "read another process's memory",
        "process_vm_readv on a process of the same user",
        "buffer = ctypes.create_string_buffer(64)\n"
        "start = None\n"
        "try:\n"
        "    for line in open(f\"/proc/{A['victim']}/maps\"):\n"
        "        if '[stack]' in line: start = int(line.split('-')[0], 16)\n"
        "except OSError: start = 0x7ffffffde000\n"
        "local = (ctypes.c_ulong * 2)(ctypes.addressof(buffer), 64)\n"
        "remote = (ctypes.c_ulong * 2)(start, 64)\n"
        "breach(call('process_vm_readv', A['victim'], local, 1, remote, 1, 0) > 0)",
    ),
    Attempt(
        "read shared memory of System V",
        "segments of other processes cannot be attached",
        "libc.shmat.restype = ctypes.c_void_p\n"
        "segment = libc.shmget(A['shm_key'], 0, 0o444)\n"
        "if segment >= 0: breach(ctypes.string_at(libc.shmat(segment, None, 0o10000), 25) == A['secret'].encode())",
    ),
    Attempt(
        "read shared memory of POSIX",
        "/dev/shm is the sandbox's own",
        "breach(A['secret'] in open(A['shm_file']).read())",
    ),
    Attempt("read the password file", "/etc/shadow", "breach('root' in open('/etc/shadow').read())", root=True),
    Attempt(
        "read the kernel's log",
        "syslog(2) and /dev/kmsg",
        "breach(libc.klogctl(3, ctypes.create_string_buffer(4096), 4096) > 0)",
        root=True,
    ),
    Attempt(
        "open a file by its handle",
        "name_to_handle_at and open_by_handle_at go around all paths",
        "handle = (ctypes.c_char * 136)(); struct.pack_into('Ii', handle, 0, 128, 0); mount = ctypes.c_int()\n"
        "call('name_to_handle_at', -100, A['secret_file'].encode(), handle, ctypes.byref(mount), 0)\n"
        "root = os.open(os.path.dirname(A['secret_file']), os.O_RDONLY)\n"
        "breach(A['secret'].encode() in os.read(call('open_by_handle_at', root, handle, os.O_RDONLY), 64))",
        root=True,
    ),
]

WRITING = [
    Attempt(
        "learn of a file outside",
        "its size, owner and times; its content is another attempt",
        "breach(os.stat(A['secret_file']).st_size > 0)",
        partial=("root", "ordinary"),
    ),
    Attempt(
        "change the permissions of a file outside",
        "of a file of the same user",
        "os.chmod(A['secret_file'], 0o644); breach()",
        partial=("ordinary",),
    ),
    Attempt(
        "write outside",
        "a folder that anybody may write",
        "open(A['outside'] + '/written', 'w').close(); breach()",
        seen=lambda stage: (stage.base / "outside" / "written").exists(),
    ),
    Attempt(
        "poison a shared cache",
        "the worker's cache of packages",
        "open(A['cache'], 'w').write('poison'); breach()",
        seen=lambda stage: (stage.base / "cache" / "idna.whl").read_text() == "poison",
    ),
    Attempt(
        "inject workflow commands",
        "the files by which a step of GitHub Actions speaks to its runner",
        "open(A['github_env'], 'a').write('LD_PRELOAD=/tmp/evil.so\\n'); breach()",
        seen=lambda stage: "LD_PRELOAD" in (stage.base / "outside" / "github_env").read_text(),
    ),
    Attempt(
        "write into the interpreter",
        "the tree of the worker's Python",
        "path = A['prefix'] + '/ghcoord-attack'; open(path, 'w').close(); os.unlink(path); breach()",
        root=True,
    ),
    Attempt(
        "write into the system",
        "/usr and /etc",
        "for path in ('/usr/bin/ghcoord-attack', '/etc/ghcoord-attack'):\n"
        "    open(path, 'w').close(); os.unlink(path); breach()",
        root=True,
    ),
    Attempt(
        "set the handler of core dumps",
        "/proc/sys/kernel/core_pattern runs programs as root of the host",
        "os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY); breach()",
        root=True,
    ),
    Attempt(
        "empty the machine's caches",
        "/proc/sys/vm",
        "os.open('/proc/sys/vm/drop_caches', os.O_WRONLY); breach()",
        root=True,
    ),
]

NETWORK = [
    Attempt(
        "connect over loopback",
        "services of the machine",
        "socket.create_connection(('127.0.0.1', A['tcp']), 2); breach()",
        seen=lambda stage: stage.await_heard("tcp"),
    ),
    Attempt(
        "connect over loopback's other name",
        "the same by IPv6",
        "socket.create_connection(('::1', A['tcp6']), 2); breach()",
        seen=lambda stage: stage.await_heard("tcp6"),
    ),
    Attempt(
        "send a datagram",
        "services that listen for datagrams",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', A['udp']))",
        seen=lambda stage: stage.await_heard("udp"),
    ),
    Attempt(
        "ask a name server",
        "names carry data out",
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1)\n"
        "s.sendto(b'secret.example.org', ('127.0.0.1', A['udp'])); breach(s.recv(64) == b'answer')",
    ),
    Attempt(
        "connect to an abstract socket",
        "these belong to the network namespace, not to files",
        "s = socket.socket(socket.AF_UNIX); s.connect('\\0' + A['abstract']); breach()",
        seen=lambda stage: stage.await_heard("abstract"),
    ),
    Attempt(
        "connect to a local socket",
        "container engines and desktops listen there",
        "s = socket.socket(socket.AF_UNIX); s.connect(A['unix']); breach()",
        seen=lambda stage: stage.await_heard("unix"),
    ),
    Attempt(
        "write to a log's socket",
        "local datagrams",
        "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', A['unix_datagram'])",
        seen=lambda stage: stage.await_heard("unix_datagram"),
    ),
    Attempt("open a socket to the hypervisor", "AF_VSOCK is in no network namespace", "socket.socket(40, 1); breach()"),
    Attempt(
        "listen to all packets",
        "AF_PACKET",
        "socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3); breach()",
        root=True,
    ),
    Attempt(
        "listen to the kernel's events",
        "AF_NETLINK beyond the list of addresses",
        "s = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15); s.bind((0, 1)); breach()",
    ),
    Attempt(
        "take an inherited descriptor",
        "whatever the worker has open stays with the worker",
        "for fd in range(3, 256):\n"
        "    try: info = os.fstat(fd)\n"
        "    except OSError: continue\n"
        "    try: breach(A['secret'].encode() in os.pread(fd, 64, 0))\n"
        "    except OSError: pass",
    ),
]

PROCESSES = [
    Attempt(
        "trace a process",
        "ptrace of a process of the same user",
        "breach(libc.ptrace(0x4206, A['victim'], None, None) == 0)",  # PTRACE_SEIZE, which leaves it running
    ),
    Attempt(
        "signal a process",
        "a process of the same user",
        "os.kill(A['victim'], signal.SIGUSR1); time.sleep(0.3)",
        seen=lambda stage: stage.await_file(stage.base / "outside" / "signalled", 3.0),
    ),
    Attempt(
        "signal through a descriptor",
        "pidfd_send_signal",
        "signal.pidfd_send_signal(os.pidfd_open(A['victim']), 0); breach()",
    ),
    Attempt(
        "take a descriptor of another process",
        "pidfd_getfd",
        "breach(call('pidfd_getfd', os.pidfd_open(A['victim']), 1, 0) >= 0)",
    ),
    Attempt(
        "compare processes",
        "kcmp tells of the kernel's addresses",
        "breach(call('kcmp', os.getpid(), A['victim'], 1, 0, 0) >= 0)",
    ),
    Attempt(
        "slow down others",
        "priorities of other processes of the user",
        "os.setpriority(os.PRIO_PROCESS, A['victim'], 5); breach()",
    ),
    Attempt(
        "raise the limits of others",
        "prlimit of another process",
        "resource.prlimit(A['victim'], resource.RLIMIT_NOFILE, (64, 64)); breach()",
    ),
    Attempt(
        "survive as a daemon",
        "a process in a session of its own that the command leaves",
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        for fd in (0, 1, 2): os.close(fd)\n"
        "        os.execv('/bin/sh', ['sh', '-c', 'sleep 30; exit', A['mark']])\n"
        "    os._exit(0)\n"
        "os.wait(); time.sleep(0.1)",
        seen=lambda stage: bool(stage.survivors()),
    ),
    Attempt(
        "survive by ignoring signals",
        "a child that catches whatever can be caught",
        "if os.fork() == 0:\n"
        "    for fd in (0, 1, 2): os.close(fd)\n"
        "    os.execv('/bin/sh', ['sh', '-c', 'trap \"\" TERM HUP INT; sleep 30; exit', A['mark']])\n"
        "time.sleep(0.1)",
        seen=lambda stage: bool(stage.survivors()),
    ),
    Attempt(
        "type into the terminal",
        "TIOCSTI puts commands into the shell that started the worker",
        "fd = os.open('/dev/tty', os.O_RDWR); fcntl.ioctl(fd, 0x5412, b'x'); breach()",
        terminal=True,
        root=True,
    ),
    Attempt(
        "write to the terminal",
        "escape sequences into the terminal of whoever started the worker",
        "os.write(os.open('/dev/tty', os.O_RDWR), b'\\x1b[2J'); breach()",
        terminal=True,
    ),
]

KERNEL = [
    Attempt(
        "become root by a program",
        "a set-user-id program outside",
        "out = subprocess.run([A['setuid'], '-u'], capture_output=True, text=True).stdout; breach(out.strip() == '0')",
    ),
    Attempt(
        "become root by a system program",
        "the set-user-id programs of the system gain nothing",
        "libc.prctl.restype = ctypes.c_int; breach(libc.prctl(39, 0, 0, 0, 0) == 0)",
    ),
    Attempt(
        "make a user namespace",
        "whoever can has every capability in it, and the kernel's whole surface",
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os._exit(0 if libc.unshare(0x10000000) == 0 else 1)\n"
        "breach(os.waitpid(pid, 0)[1] == 0)",
    ),
    Attempt(
        "make a namespace by clone3",
        "the newer call takes its flags where no filter sees them",
        "args = struct.pack('8Q', 0x10000000, 0, 0, 0, 17, 0, 0, 0)\n"
        "pid = call('clone3', ctypes.create_string_buffer(args, 64), 64)\n"
        "if pid == 0: os._exit(0)\n"
        "breach()",
    ),
    Attempt(
        "mount",
        "a file system of one's own",
        "breach(libc.mount(b'x', b'/mnt', b'tmpfs', 0, None) == 0)\nlibc.umount2(b'/mnt', 2)",
        root=True,
    ),
    Attempt("change the root", "chroot", "os.chroot('.'); breach()", root=True),
    Attempt(
        "make a device",
        "mknod of a disk",
        "os.mknod('disk', 0o600 | stat.S_IFBLK, os.makedev(254, 0)); breach()",
        root=True,
    ),
    Attempt(
        "set up io_uring",
        "its calls pass no seccomp filter",
        "params = ctypes.create_string_buffer(120); breach(call('io_uring_setup', 4, params) >= 0)",
    ),
    Attempt(
        "load a program into the kernel",
        "bpf",
        "attr = struct.pack('IIIII', 1, 4, 4, 1, 0) + bytes(100)\n"
        "breach(call('bpf', 0, ctypes.create_string_buffer(attr), 72) >= 0)",
        root=True,
    ),
    Attempt(
        "store a key in the kernel",
        "keyrings are shared by the user's processes",
        "breach(call('add_key', b'user', b'ghcoord-attack', b'x', 1, -3) > 0)",
    ),
    Attempt("handle page faults", "userfaultfd widens races in the kernel", "breach(call('userfaultfd', 1) >= 0)"),
    Attempt(
        "watch the machine's counters",
        "perf_event_open",
        "attr = struct.pack('IIQQQQQ', 1, 112, 0, 0, 0, 0, 0x60) + bytes(64)\n"
        "breach(call('perf_event_open', ctypes.create_string_buffer(attr, 112), 0, -1, -1, 0) >= 0)",
    ),
    Attempt(
        "switch off the addresses' randomness",
        "personality",
        "breach(libc.personality(0x0040000) >= 0)",
    ),
    Attempt("name the machine", "sethostname", "socket.sethostname(socket.gethostname()); breach()", root=True),
]

RESOURCES = [
    Attempt(
        "fork without end",
        "more processes than the limit allows",
        "alive = 0\n"
        "for _ in range(300):\n"
        "    try: pid = os.fork()\n"
        "    except OSError: break\n"
        "    if pid == 0:\n"
        "        time.sleep(5); os._exit(0)\n"
        "    alive += 1\n"
        "time.sleep(0.5); breach(alive > 150)\n"
        "os.killpg(0, signal.SIGTERM)",
        limits=(("processes", 100),),
    ),
    Attempt(
        "start threads without end",
        "threads count as processes do",
        "import threading\n"
        "alive = 0\n"
        "for _ in range(300):\n"
        "    try: threading.Thread(target=time.sleep, args=(3,), daemon=True).start()\n"
        "    except RuntimeError: break\n"
        "    alive += 1\n"
        "time.sleep(0.5); breach(alive > 150); os._exit(0)",
        limits=(("processes", 100),),
    ),
    Attempt(
        "take memory",
        "in one process",
        "held = []\nfor _ in range(40): held.append(bytearray(os.urandom(1024)) * 16384); time.sleep(0.01)\nbreach()",
        limits=(("memory_mb", 192),),
    ),
    Attempt(
        "take memory in many processes",
        "each stays below the limit",
        "children = []\n"
        "for _ in range(8):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        held = bytearray(os.urandom(1024)) * 81920; time.sleep(2); os._exit(0)\n"
        "    children.append(pid)\n"
        "breach(all(os.waitpid(pid, 0)[1] == 0 for pid in children))",
        limits=(("memory_mb", 256),),
    ),
    Attempt(
        "take memory that belongs to no process",
        "memfd",
        "fd = os.memfd_create('x')\nfor _ in range(640): os.write(fd, bytes(1048576)); time.sleep(0.001)\nbreach()",
        limits=(("memory_mb", 192),),
    ),
    Attempt(
        "take memory by files",
        "folders that lie in memory",
        "with open('/dev/shm/attack-' + A['mark'], 'wb') as file:\n"
        "    os.unlink(file.name)\n"
        "    for _ in range(640): file.write(bytes(1048576))\n"
        "breach()",
        limits=(("memory_mb", 192),),
    ),
    Attempt(
        "write a large file",
        "beyond the limit of one file",
        "with open('large', 'wb') as file:\n    for _ in range(64): file.write(bytes(1048576))\nbreach()",
        limits=(("file_mb", 16),),
    ),
    Attempt(
        "fill the disk",
        "with many files, none of them large",
        "for number in range(120):\n"
        "    open(f'part{number}', 'wb').write(os.urandom(1048576)); time.sleep(0.02)\n"
        "breach()",
        limits=(("workspace_mb", 32),),
    ),
    Attempt(
        "use the processor without end",
        "beyond the limit of CPU time, in several processes",
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        while time.process_time() < 1.5: pass\n"
        "        os._exit(0)\n"
        "statuses = [os.wait()[1] for _ in range(3)]\n"
        "breach(not any(statuses))",
        limits=(("cpu_seconds", 2),),
    ),
    Attempt(
        "leave a core file",
        "a crash writes the memory to the disk",
        "resource.setrlimit(resource.RLIMIT_CORE, (1, resource.RLIM_INFINITY)); breach()",
    ),
]

ATTEMPTS = [*SECRETS, *WRITING, *NETWORK, *PROCESSES, *KERNEL, *RESOURCES]
