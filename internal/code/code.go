// Package code holds VDSM's error codes and the one error type that carries them from where a thing goes wrong to the
// client. It imports nothing of the project; every package may import it.
//
// The numbers are VDSM's (lib/vdsm/storage/exception.py and lib/vdsm/common/exception.py) because engines act on the
// number alone. The text is ours: one sentence that says what happened and what to do.
package code

import (
	"errors"
	"fmt"
)

// Code is the number of an error on the wire.
type Code int

// The codes that this agent answers.
const (
	ParseError     Code = -32700 // the request is not JSON
	InvalidRequest Code = -32600 // the request is not JSON-RPC 2.0
	MethodNotFound Code = -32601 // no such verb
	InternalError  Code = -32603 // a defect of the agent

	NoSuchVM              Code = 1
	VMExists              Code = 4
	VMIsDown              Code = 6
	CannotCreateVM        Code = 9
	MigrationError        Code = 12
	GuestAgent            Code = 19 // the agent in the guest does not answer
	ResourceUnavailable   Code = 40 // what the verb needs cannot be had now, such as libvirt
	MigrationCancel       Code = 47
	SnapshotFailed        Code = 48
	MigrationInProgress   Code = 51
	MergeFailed           Code = 52
	ReplicationFailed     Code = 55
	NoSuchJob             Code = 66
	JobNotDone            Code = 68
	UnsupportedOperation  Code = 75
	MigrationNotActive    Code = 81
	MigrationLimit        Code = 82 // as many machines as may come to the host are on their way
	JobNotActive          Code = 84
	NotReplicating        Code = 88
	RecoveryInProgress    Code = 99 // the agent is starting; ask again
	General               Code = 100
	Storage               Code = 200 // storage answered an error that has no code of its own
	VolumeDoesNotExist    Code = 201
	IncorrectFormat       Code = 202
	VolumeImageHasChild   Code = 204
	VolumeCreation        Code = 205
	VolumeMetadataRead    Code = 207
	VolumeMetadataWrite   Code = 208
	VolumeAccess          Code = 209
	VolumeAlreadyExists   Code = 212
	VolumeNonWritable     Code = 213
	CannotDeleteVolume    Code = 222
	CannotDeleteShared    Code = 223
	VolumeCopy            Code = 225
	CreateIllegalSnapshot Code = 226
	PrepareIllegalVolume  Code = 227
	IncorrectType         Code = 231
	VolumeResize          Code = 232
	InvalidVolumeUpdate   Code = 235
	ImageIsNotLegalChain  Code = 262
	ImageDelete           Code = 256
	DestImageAction       Code = 260 // the image that is copied to is not what it must be
	TemplateOnTarget      Code = 263 // the template in the destination is not what it must be
	MoveTemplateImage     Code = 266 // images are derived from the template
	ImageDoesNotExist     Code = 268
	PoolMasterNotFound    Code = 304
	StoragePoolUnknown    Code = 309
	PoolAlreadyExists     Code = 316
	PoolWrongMaster       Code = 324
	DomainCreation        Code = 351
	DomainNotInPool       Code = 353
	DomainDoesNotExist    Code = 358
	DomainMetadata        Code = 362
	DomainAlreadyExists   Code = 365
	DomainLayout          Code = 371
	DomainType            Code = 372
	DomainAccess          Code = 379 // the domain is read-only, gone or answers I/O errors
	CannotDetachMaster    Code = 383
	NotAllowed            Code = 385 // the client's role is too low; of VDSM's numbers the one that says "insufficient permissions"
	CannotFormatInPool    Code = 392
	UnsupportedVersion    Code = 394
	NoSpaceLeftOnDomain   Code = 397
	UnknownTask           Code = 401
	TaskClear             Code = 402
	TaskNotFinished       Code = 403
	AddTask               Code = 405
	TaskState             Code = 410 // too late, or not in this state
	TaskAborted           Code = 411
	TaskPersist           Code = 413 // the store could not record it
	NotRevertible         Code = 441
	FlowCancelled         Code = 443
	StorageServerConnect  Code = 451
	MountType             Code = 470
	Mount                 Code = 477
	ImageVerification     Code = 484
	AcquireLock           Code = 651 // the domain's claim is held by somebody else
	MetadataSealBroken    Code = 752
	MetadataOverflow      Code = 756
	ResourceTimeout       Code = 851
	DomainInOtherPool     Code = 900
	GenerationMismatch    Code = 911
	InvalidParameter      Code = 1000
	ResourceExhausted     Code = 1100
	AddBitmap             Code = 1620
	RemoveBitmap          Code = 1622
	Unsupported           Code = 2009 // not with a volume of this kind
	ShuttingDown          Code = 3001
)

// Error is an error with the number that a client acts on. Its text is a sentence for a person.
type Error struct {
	Code    Code
	Message string
	cause   error
}

// Errorf makes an *Error. A %w in the format keeps the cause for errors.Is and errors.As.
func Errorf(c Code, format string, args ...any) *Error {
	wrapped := fmt.Errorf(format, args...)
	return &Error{Code: c, Message: wrapped.Error(), cause: errors.Unwrap(wrapped)}
}

// Error returns the sentence without the number.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause, if one was given with %w.
func (e *Error) Unwrap() error { return e.cause }

// Of returns the code that err carries: that of the first *Error in its chain, General if there is none, and 0 for nil.
func Of(err error) Code {
	if err == nil {
		return 0
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return General
}

// Or returns err as it is if it already carries a code, else wrapped with c and the sentence what.
func Or(c Code, err error, what string) error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return Errorf(c, "%s: %w", what, err)
}
