// Package qemuimg runs qemu-img safely: formats are always given and never probed, no header of an image chooses a file,
// paths are passed in a form in which no character is special, output is parsed into types, and every run is a worker that
// the caller's Starter can end.
//
// It is not a copier (see package copy) and knows nothing of domains, volumes' metadata or tasks: it gets paths, formats
// and the chain below an image from its caller.
//
// It may be imported by storageops and its packages. It imports internal/code and internal/proc.
package qemuimg
