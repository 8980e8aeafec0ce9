// Package domain keeps oVirt file domains in their on-disk layout, version 5: which domains there are (Registry), their
// metadata and that of their volumes, chains, templates as hard links, the claim on a domain, and the trash.
//
// It moves names and metadata, never data: volumes are made and copied by qemuimg and copy. It knows nothing of tasks,
// JSON-RPC or qemu-img. It imports only internal/code and storageops/lease of the project; storageops, agent and tests may
// import it.
//
// Four rules hold for everything here that changes a domain:
//
//   - No path leaves its domain: all goes through an os.Root, and symbolic links inside are refused.
//   - What was answered is on stable storage: file and directory are synced before the return.
//   - It may die at any line. Repeating it, or calling its inverse, always comes to the same end.
//   - It needs the claim (Registry.Get). Only reading works without (Registry.GetReadOnly).
//
// It is a large package with a reason: metadata, templates' hard links and the trash change the same directories, and
// what one of them leaves when it dies the others must take; TestDyingAnywhere proves that for all of them together.
//
// Nothing of ours ever lies in an image directory: VDSM's delete of an image removes the files it knows and then the
// directory, and fails on any other. Temporary files, the trash and the claim are in .vdsm-agent at the domain's top.
package domain
