// Package domaincheck finds everything in a file domain that is not as it should be, and says of each thing what it means and what
// can be done. It only reads, needs no daemon, and believes nothing: names, metadata, image headers, manifests and the tasks that
// VDSM has left are all compared with one another.
//
// A Finding has a class, which is a row of the table Kinds (docs/domain-check.md is held to it), and where a repair is safe a Fix.
// Safe is what can be taken back, loses nothing, and is right whoever made the mess; what would need to know more is never offered.
// The fixes are carried out by storageops, as steps of a task.
//
// It reads through an fs.FS that knows hard links (fs.ReadLinkFS, and FileInfo.Sys as os has it), so that tests can check a domain
// in memory. It imports storageops/domain (metadata and manifests), storageops/qemuimg (headers), storageops/vdsmtasks and internal.
// storageops and the command line may import it.
package domaincheck
