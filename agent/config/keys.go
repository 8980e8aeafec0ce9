package config

import (
	"vdsm-agent/internal/access"
	"vdsm-agent/tasks"
)

// key is a row of the table: all that is known of a key.
type key struct {
	section, key string
	value        string // its default, as it is written
	unset        bool   // it has no default: value is an example
	live         bool   // a reload changes it
	doc          string
	set          func(*Config) func(string) error
}

func (k key) name() string { return k.section + "." + k.key }

// keys are all that a file may say, in the order of the shipped file.
var keys = []key{
	{section: "agent", key: "state_dir", value: "/var/lib/vdsm-agent",
		doc: "Directory of the agent's state: the store of tasks, its own storage domain, its id.",
		set: func(c *Config) func(string) error { return setString(&c.StateDir) }},
	{section: "agent", key: "socket", value: DefaultSocket,
		doc: "Unix socket that clients connect to. With vdsm-agentd.socket it is systemd's, and where that is its unit says.",
		set: func(c *Config) func(string) error { return setString(&c.Socket) }},
	{section: "agent", key: "socket_mode", value: "0660",
		doc: "Its mode, in octal: who can connect at all. What they may then do, section [access] says. A socket of systemd's has the mode of its unit.",
		set: func(c *Config) func(string) error { return setMode(&c.SocketMode) }},
	{section: "agent", key: "socket_group", value: "adm", unset: true,
		doc: "Its group, by name or number. Without it the daemon's own. A socket of systemd's has the group of its unit.",
		set: func(c *Config) func(string) error { return setGroup(&c.SocketGroup) }},
	{section: "agent", key: "log_level", value: "info", live: true,
		doc: "Least important level of messages in the log: debug, info, warn or error.",
		set: func(c *Config) func(string) error { return setLevel(&c.LogLevel) }},

	{section: "tls", key: "address", value: "[::]:54321",
		doc: "Address and port for clients on other hosts, by STOMP over TLS 1.2 or newer; none = not at all. Without the three files the agent does " +
			"not listen there, and begins to when they have come. They are read again when they change; connections that exist go on.",
		set: func(c *Config) func(string) error { return setAddress(&c.TLS.Address, "") }},
	{section: "tls", key: "cert", value: "/etc/pki/vdsm/certs/vdsmcert.pem",
		doc: "The agent's certificate.",
		set: func(c *Config) func(string) error { return setString(&c.TLS.Files.Cert) }},
	{section: "tls", key: "key", value: "/etc/pki/vdsm/keys/vdsmkey.pem",
		doc: "Its key.",
		set: func(c *Config) func(string) error { return setString(&c.TLS.Files.Key) }},
	{section: "tls", key: "ca", value: "/etc/pki/vdsm/certs/cacert.pem",
		doc: "The authority whose certificates clients must have. No others count, not even those that this host trusts.",
		set: func(c *Config) func(string) error { return setString(&c.TLS.Files.CA) }},
	{section: "tls", key: "check_name", value: "false",
		doc: "Whether the common name of a client's certificate must be its address, or a name that its address has (VDSM: verify_client_cert).",
		set: func(c *Config) func(string) error { return setBool(&c.TLS.CheckName) }},

	{section: "plain", key: "address", value: "none",
		doc: "Address and port for STOMP without TLS; none = not at all; a port alone, as in :54322, is one of 127.0.0.1. Nobody is proven to be anybody there: " +
			"keep it to that.",
		set: func(c *Config) func(string) error { return setAddress(&c.Plain.Address, "127.0.0.1") }},
	{section: "plain", key: "role", value: "observe",
		doc: "What its clients may do: none, observe, operate or admin.",
		set: func(c *Config) func(string) error { return setRole(&c.Plain.Role) }},

	{section: "rpc", key: "connections", value: "200",
		doc: "How many clients may be connected to each of the sockets; 0 = any number.",
		set: func(c *Config) func(string) error { return setCount(&c.Connections) }},
	{section: "rpc", key: "per_address", value: "100",
		doc: "How many of them from one address; 0 = any number.",
		set: func(c *Config) func(string) error { return setCount(&c.PerAddress) }},
	{section: "rpc", key: "java", value: "auto",
		doc: "Which clients get what oVirt's engine needs (frames one by one, with pauses, padded): auto finds out, always, never.",
		set: func(c *Config) func(string) error { return setJava(&c.Java) }},

	{section: "access", key: "admin", value: "1000", unset: true, live: true,
		doc: "Who may do what concerns the agent and all its clients, besides all that follows: users of this host, or @groups, by name or number, " +
			"separated by commas. Root and the agent's own user are admin always. The socket's mode must let them in, too: see socket_mode. In this section a " +
			"reload changes what new connections may do.",
		set: func(c *Config) func(string) error { return c.local(access.Admin) }},
	{section: "access", key: "operate", value: "@daemon", unset: true, live: true,
		doc: "Who may do what an engine does.",
		set: func(c *Config) func(string) error { return c.local(access.Operate) }},
	{section: "access", key: "observe", value: "nobody,@adm", unset: true, live: true,
		doc: "Who may look at everything.",
		set: func(c *Config) func(string) error { return c.local(access.Observe) }},
	{section: "access", key: "tls_admin", value: "admin.example.com", unset: true, live: true,
		doc: "The same for clients on other hosts: names in their certificates (common name, DNS, IP, e-mail, URI), * for any part.",
		set: func(c *Config) func(string) error { return c.remote(access.Admin) }},
	{section: "access", key: "tls_operate", value: "*", live: true,
		doc: "As with VDSM, any certificate that the authority has signed may do what an engine does, unless it is said otherwise.",
		set: func(c *Config) func(string) error { return c.remote(access.Operate) }},
	{section: "access", key: "tls_observe", value: "*.monitoring.example.com", unset: true, live: true,
		doc: "And who of them may look.",
		set: func(c *Config) func(string) error { return c.remote(access.Observe) }},

	{section: "storage", key: "roots", value: "/srv/storage,/data", unset: true,
		doc: "Directories in which storage domains may lie, besides the agent's own in state_dir, separated by commas.",
		set: func(c *Config) func(string) error { return setList(&c.Roots) }},
	{section: "storage", key: "owner", value: "36:36", unset: true,
		doc: "uid:gid of files that are made in domains. VDSM's are 36:36. Without it those that the daemon runs with.",
		set: func(c *Config) func(string) error { return setOwner(&c.Owner) }},
	{section: "storage", key: "trash_for", value: "24h",
		doc: "How long what a delete has moved to the trash can be taken back when the delete is neither cleared nor reverted.",
		set: func(c *Config) func(string) error { return setDuration(&c.TrashFor) }},
	{section: "storage", key: "trash_limit", value: "20", live: true,
		doc: "How much of a domain's file system its trash should take at most, in percent; 0 = any part. Nothing is removed for it: metrics and vdsm-agentctl doctor tell.",
		set: func(c *Config) func(string) error { return setPercent(&c.TrashLimit) }},
	{section: "storage", key: "mounts", value: "/rhev/data-center/mnt", unset: true,
		doc: "Directory in which NFS and other storage is mounted, and those of this host are linked, under VDSM's names. Without it mnt in state_dir. " +
			"The given one is VDSM's own, which must not run then.",
		set: func(c *Config) func(string) error { return setString(&c.Mounts) }},
	{section: "storage", key: "mount_wait", value: "1m",
		doc: "How long a mount, or its end, may take before the engine is told that it failed; its process is killed.",
		set: func(c *Config) func(string) error { return setDuration(&c.MountWait) }},

	{section: "vm", key: "libvirt", value: DefaultLibvirt,
		doc: "libvirt's socket, or none on a host that is to have no virtual machines. While it does not answer, verbs of machines are refused (code 40), and " +
			"everything else works.",
		set: func(c *Config) func(string) error { return setLibvirt(&c.Libvirt) }},

	{section: "vm", key: "migrate_unsafe", value: "false",
		doc: "Whether machines may leave for other hosts though libvirt does not know their storage as one that hosts share (it knows NFS, Ceph, GFS2, OCFS2, " +
			"GPFS, SMB and Gluster), or a disk of theirs is cached on this host.",
		set: func(c *Config) func(string) error { return setBool(&c.MigrateUnsafe) }},

	{section: "tasks", key: "copy_limit", value: "4", live: true,
		doc: "How many tasks that move much data run at a time; 0 = any number. This one, the other limits of classes and queue_limit can also be changed " +
			"until the daemon ends by 'vdsm-agentctl queue --set'; a reload changes those that have other values in the files than before.",
		set: limit(tasks.ClassCopy)},
	{section: "tasks", key: "merge_limit", value: "4", live: true,
		doc: "How many that commit a layer of a chain into the one below; 0 = any number.",
		set: limit(tasks.ClassMerge)},
	{section: "tasks", key: "vm_limit", value: "8", live: true,
		doc: "How many that wait for a virtual machine; 0 = any number.",
		set: limit(tasks.ClassVM)},
	{section: "tasks", key: "migrate_limit", value: "2", live: true,
		doc: "How many virtual machines leave for other hosts at a time; 0 = any number.",
		set: limit(tasks.ClassMigrate)},
	{section: "tasks", key: "light_limit", value: "64", live: true,
		doc: "How many that change metadata and take seconds at most; 0 = any number.",
		set: limit(tasks.ClassLight)},
	{section: "tasks", key: "queue_limit", value: "500", live: true,
		doc: "How many tasks may wait for a lock or a slot before a submit that would have to wait too is refused (code 405); 0 = any number.",
		set: func(c *Config) func(string) error { return setCount(&c.QueueLimit) }},
	{section: "tasks", key: "lock_wait", value: "0", live: true,
		doc: "How long a task waits for its locks before it fails (code 851) and names who has them; 0 = for ever.",
		set: func(c *Config) func(string) error { return orNever(setDuration(&c.Tuning.LockWait)) }},
	{section: "tasks", key: "job_autodelete", value: "1h", live: true,
		doc: "Jobs (tasks with the tag sdm, virt or host) are cleared so long after their end: no engine does it.",
		set: func(c *Config) func(string) error { return setDuration(&c.Tuning.Retention.Jobs) }},
	{section: "tasks", key: "history_for", value: "720h", live: true,
		doc: "Cleared tasks stay in the history for so long, with their audit trail; a task's id is taken as long.",
		set: func(c *Config) func(string) error { return setDuration(&c.Tuning.Retention.History) }},
	{section: "tasks", key: "history_rows", value: "100000", live: true,
		doc: "And at most so many tasks, the newest; 0 = any number.",
		set: func(c *Config) func(string) error { return setCount(&c.Tuning.Retention.Rows) }},
	{section: "tasks", key: "term_grace", value: "2s", live: true,
		doc: "How long a process of a task that is stopped has between SIGTERM and SIGKILL.",
		set: func(c *Config) func(string) error { return setDuration(&c.Tuning.TermGrace) }},
	{section: "tasks", key: "fence_for", value: "1h", live: true,
		doc: "How long a cancelled flow refuses new tasks, unless Flow.release ends that before.",
		set: func(c *Config) func(string) error { return setDuration(&c.Tuning.FenceFor) }},

	{section: "metrics", key: "address", value: besideSocket,
		doc: "Where Prometheus' text format can be read, at /metrics: the absolute path of a unix socket, an address and port of this host, as in 127.0.0.1:9533, which every " +
			"user of it can read; none = not at all. socket is metrics.sock in the directory of agent.socket. What is there, docs/monitoring.md says.",
		set: func(c *Config) func(string) error { return setMetrics(&c.Metrics.Address) }},
	{section: "metrics", key: "mode", value: "0660",
		doc: "The mode of that unix socket, in octal.",
		set: func(c *Config) func(string) error { return setMode(&c.Metrics.Mode) }},
	{section: "metrics", key: "group", value: "adm", unset: true,
		doc: "Its group, by name or number. Without it the daemon's own.",
		set: func(c *Config) func(string) error { return setGroup(&c.Metrics.Group) }},

	{section: "debug", key: "mock_verb", value: "false",
		doc: "Whether there is the verb Mock.run, which does nothing, for tests of clients: true or false.",
		set: func(c *Config) func(string) error { return setBool(&c.Mock) }},
}

func limit(class tasks.Class) func(*Config) func(string) error {
	return func(c *Config) func(string) error {
		return func(s string) (err error) {
			c.Limits[class], err = readCount(s)
			return err
		}
	}
}

// local gives users and groups of this host a role.
func (c *Config) local(role access.Role) func(string) error {
	return each(func(who string) error { return c.Access.AllowLocal(who, role) })
}

// remote gives certificates a role.
func (c *Config) remote(role access.Role) func(string) error {
	return each(func(pattern string) error { return c.Access.AllowRemote(pattern, role) })
}
