// Package nbd is a client of the NBD protocol over unix sockets: as much of it as the agent's workers need to look at an image that
// qemu-nbd has open, to free what is in it, and to put on stable storage what others have written.
//
// It knows nothing of images, processes or tasks, and sets no deadlines: a server whose disk hangs holds up whoever asks it, which is
// a worker and never the agent.
//
// It may be imported by storageops, storageops/copy, storageops/qemuimg and by tests. It imports nothing of the project.
package nbd
