// Package copy copies the data of one image into another, in slices that can be resumed after a stop, a crash of the agent
// or a power cut.
//
// A pair of formats is copied by `qemu-img convert`, one run for each slice; raw to raw is copied by a worker of ours, in
// the kernel where that is instant. Either way the agent itself never reads, writes or syncs an image: a disk that hangs
// holds a worker, which can be named, and not the agent. The workers of ours are the agent's own binary, started again
// with the hidden command WorkerCommand; its main calls WorkerMain.
//
// What makes a resume safe, in the order in which it was learnt:
//
//   - Cache modes are `none` or, where O_DIRECT is refused, `writeback`; never `unsafe`, which lets a qcow2 file's
//     references reach the disk before what they refer to.
//   - The keeper, a worker, opens the destination before the first slice is written and syncs that same descriptor, so that
//     no write error of the copy can be reported to somebody else. A checkpoint is recorded only after the sync of
//     what it covers. A sync that fails is not repeated: the pages that it lost count as clean afterwards. The copy
//     fails, and a later run starts over.
//   - A checkpoint that says "nothing copied yet" is recorded before the first write, and one that says "start over" before
//     a destination is made anew.
//   - A qcow2 destination is checked before a copy into it is resumed. Leaked clusters are the expected trace of an end in the
//     middle and are given back, before it goes on and once more at its end, as QEMU may leave one then; anything worse
//     starts over.
//   - A source that changed since the first checkpoint starts over; one that changed during a run fails it.
//
// Run, Zero, Allocate and Sparsify go on from their last checkpoint in the same process as well as in another one: a pause ends them
// as a shutdown does. A limit (Env.Limit) makes slices small, so that another limit counts soon; checkpoints do not depend on
// how slices were cut. qemu-img is given the limit when it is started, and started anew if it changed before its turn; the
// workers of ours are told it at any time.
//
// It makes no destination (see qemuimg.Create), knows nothing of domains or tasks, and does not sync directories: that is
// their creator's duty.
//
// It may be imported by storageops, by main for WorkerMain, and by tests. It imports internal/code, internal/proc,
// storageops/nbd and storageops/qemuimg.
package copy
