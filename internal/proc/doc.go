// Package proc starts programs that work for a task, ends them, and proves them gone.
//
// A worker lives in a cgroup v2 leaf of its own where one can be made, else in a process group of its own that is
// watched through pidfds. "Gone" always means proven: the cgroup is empty, or every process of the group was reaped or its
// pidfd became readable. kill(pid, 0) is never asked: PID 1 may take seconds to reap an orphan.
//
// A worker is its leader, the process that was started. What outlives the leader is killed, and only then is the worker
// gone. A cgroup holds whatever the leader starts. A process group does not hold what calls setsid, so in that mode every
// worker also gets a mark in its environment, by which such children are found; a program that calls setsid and clears
// its environment escapes. And if some process of the agent's user hangs in its last breath, where it shows no mark, older
// workers cannot be proven gone until it has ended. The cgroup mode has neither weakness.
//
// Workers die with the agent (parent-death signal). What is left of a former run all the same is found by its cgroup,
// or by the recorded pid and start time or mark, never by its name. A signal is sent through a pidfd whose process was
// looked at after the pidfd was opened, or to a cgroup: a reused pid is never hit.
//
// It does not decide when to ask and when to kill: that is the task engine's. It needs Linux 5.14 for cgroups (for
// cgroup.kill) and 5.10 without.
//
// It knows nothing about tasks but their ids. It may be imported by storageops, agent and tests.
package proc
