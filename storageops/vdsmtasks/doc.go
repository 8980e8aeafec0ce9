// Package vdsmtasks reads the tasks that VDSM leaves in the directory master/tasks of a pool's master domain: what each was, how
// far it came, and which volumes it was making. It only reads. What it cannot read it sets aside by name; no content makes it fail.
//
//	<id>/<id>.task         what it was, and its state; rewritten at each change
//	<id>/<id>.job.<n>      what it ran, with its arguments as Python prints them
//	<id>/<id>.recover.<n>  how VDSM would take back what it had done; the last one goes first
//	<id>/<id>.result       of a task that has finished with success
//	<id>.temp, <id>.backup what a rewrite that died has left; taken where <id> itself is missing
//
// It imports internal/param of the project. storageops/domaincheck, storageops and the command line may import it.
package vdsmtasks
