// Package nbd is a client of the NBD protocol over a connection that is there already: as much of it as the agent's workers need to
// look at an image that qemu-nbd has open, and to free what is in it.
//
// It knows nothing of images, processes or tasks, and sets no deadlines: a server whose disk hangs holds up whoever asks it, which is
// a worker and never the agent.
//
// It may be imported by storageops/copy and by tests. It imports nothing of the project.
package nbd
