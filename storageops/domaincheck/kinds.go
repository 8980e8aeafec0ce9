package domaincheck

// Class names a kind of finding; it is documented and does not change.
type Class string

// Kind is what is known of a class.
type Kind struct {
	Class    Class
	Severity Severity
	Means    string // one sentence
	Remedy   string // what can be done
	Repair   Action // what may be offered; "" = nothing
}

// Kinds are all classes, in the order in which a domain is looked through.
var Kinds = []Kind{
	{"unreadable", Error, "Something in the domain cannot be read, so the check knows less than it should.",
		"Look at the kernel's log for I/O errors, at the mount, and at who may read it; then check again.", ""},
	{"domain-metadata", Error, "dom_md/metadata is missing or cannot be understood, so no host will open the domain.",
		"Put it back from a copy; the file of another domain of the same type and version shows which lines it needs.", ""},
	{"domain-checksum", Error, "The checksum in dom_md/metadata does not fit its lines: it is damaged or was edited by hand, and no host will open the domain.",
		"Look at every line; if all are right, write the checksum that the message names into _SHA_CKSUM.", ""},
	{"domain-id", Error, "dom_md/metadata is of another domain than the directory says, as after a copy of a whole domain.",
		"Give the directory the name that the metadata says, or remove the copy; two domains of one id must never be seen by one host.", ""},
	{"domain-version", Note, "The domain has an older version than 5: it can be read, not changed, and some of what is found may be usual there.",
		"Upgrade the domain with the engine that it belongs to.", ""},
	{"domain-file", Error, "A file or directory that every domain has is missing or is something else; without ids nobody can claim the domain.",
		"Make it again as VDSM does: ids and leases empty, inbox and outbox of 16 MiB, mode 0660, owned by vdsm:kvm.", ""},
	{"vdsm-task", Warning, "VDSM has left a task here, so it was cut off or its engine has never cleared it; a VDSM that gets this domain will take it up.",
		"'vdsm-agentctl import-vdsm-tasks' shows it in full; the repair moves the task's directory to the trash.", Trash},

	{"stray-file", Warning, "A file that no tool for storage domains makes; in an image's directory it makes VDSM's delete of the image fail.",
		"Find out whose it is; the repair moves it to the trash.", Trash},
	{"stray-directory", Warning, "A directory that does not belong where it is; in an image's directory it makes every delete of the image fail.",
		"Look at what is in it and move it away by hand.", ""},
	{"not-a-file", Error, "A symbolic link or special file where only files may be; nothing here follows it, and VDSM might.",
		"Look at where it leads and remove it by hand.", ""},
	{"leftover", Warning, "A temporary file of a tool that died: it is never used again and takes room.",
		"The repair moves it to the trash.", Trash},
	{"removed-image", Warning, "An image that VDSM was deleting when it died; VDSM removes it when it next opens the domain.",
		"The repair moves it to the trash.", Trash},
	{"empty-image", Warning, "An image's directory with nothing in it: a create or a delete died half-way, and engines see an image without volumes.",
		"The repair moves it to the trash.", Trash},
	{"orphan-data", Warning, "A volume's data without its metadata: VDSM and engines do not see it, it takes room, and it may be the only copy of a disk whose metadata was lost.",
		"If no disk is missed, the repair moves it to the trash; if one is, write its .meta file anew by hand.", Trash},
	{"orphan-meta", Error, "A volume's metadata without its data: engines see a disk that is not there, and every use of it fails.",
		"Put the data back from a backup, or let the repair move the metadata to the trash.", Trash},
	{"orphan-lease", Warning, "A volume's lease file without the volume; it makes VDSM's delete of the image fail.",
		"The repair moves it to the trash.", Trash},
	{"lease-on-local", Warning, "A volume's lease file on a local domain, where there are none: VDSM's delete of the image fails on it.",
		"The repair moves it to the trash.", Trash},
	{"lease-missing", Error, "A volume on shared storage has no lease file, so every storage job of VDSM on it fails.",
		"Make it with the sanlock command that the message names, as vdsm:kvm.", ""},
	{"lease-size", Error, "A volume's lease file has not the size of a lease; sanlock cannot use it.",
		"While no host uses the volume, make it again with the sanlock command that the message names.", ""},

	{"meta-damaged", Error, "A volume's metadata cannot be read: neither VDSM nor this agent can do anything with the volume.",
		"Write the .meta file again by hand; the data is not touched by this, and the message says what is wrong.", ""},
	{"meta-eof", Warning, "A volume's metadata does not end with EOF: a write was cut short, or it was edited by hand; all of its keys are there.",
		"The repair writes it again with the same values.", Rewrite},
	{"meta-overflow", Warning, "A volume's metadata is longer than 512 bytes: it can be read, but every change of it fails.",
		"Shorten the description with Volume.setDescription.", ""},
	{"meta-word", Error, "A volume's metadata has a word that VDSM does not know, so what VDSM does with the volume is not certain.",
		"Find out what was meant and set it by hand in the .meta file.", ""},
	{"meta-domain", Error, "A volume's metadata names another domain, as after a copy of files from one domain into another.",
		"If the files belong here, the repair writes this domain's id.", Rewrite},
	{"meta-image", Error, "A volume's metadata names another image than the one it is in, and it is no template's hard link: VDSM counts it to the wrong image.",
		"If the files belong here, the repair writes this image's id.", Rewrite},
	{"illegal", Warning, "A volume is ILLEGAL: it was not completed, or is being deleted or merged, and cannot be used.",
		"Repeat what was being done with the disk in the engine, or delete the volume there; only the engine knows which.", ""},
	{"unfinished", Error, "A volume is ILLEGAL or without metadata, and a task that VDSM has left says that it was just making it: it was never whole.",
		"The repair moves it to the trash.", Trash},
	{"fake", Note, "A backup domain's stand-in for a template that is not there.", "Nothing.", ""},

	{"format", Error, "The metadata says COW, but the file is no qcow2 image: what is in it cannot be read as a disk.",
		"Restore the data from a backup; never change FORMAT to RAW to get at it while a guest can write it.", ""},
	{"format-suspect", Warning, "The metadata says RAW, but the file begins as a qcow2 image does: the metadata is wrong, or a guest has written that.",
		"If the guest does not start, look at the file with qemu-img info and correct FORMAT by hand; nothing must ever guess it.", ""},
	{"header", Error, "A qcow2 image has a header that is damaged or needs what no volume may need.",
		"Restore the volume from a backup, or convert it on a host that you can lose.", ""},
	{"corrupt-flag", Error, "QEMU has marked the qcow2 image corrupt; guests can read it but not write it.",
		"While no guest uses it, make a copy and try 'qemu-img check -r all' on the copy.", ""},
	{"backing", Error, "The backing file that the image names is not the parent that the metadata names: a guest would see other data than the engine thinks.",
		"Find out which is right, before the disk is used: a rebase or a merge was cut off. Then 'qemu-img rebase -u', or PUUID by hand.", ""},
	{"backing-format", Warning, "The image does not say the format of its backing file, or another one than the parent's metadata; QEMU would have to guess.",
		"While no guest uses it: 'qemu-img rebase -u -b PARENT -F FORMAT'.", ""},
	{"capacity", Warning, "The image is larger than its metadata says, as when an extension died before its last step; copies would cut the disk.",
		"The repair writes the image's size into the metadata.", Rewrite},
	{"cut-short", Error, "The image is smaller than its metadata says: its end is missing, or it was never whole.",
		"Restore the volume from a backup; if an extension was cut off, repeat it in the engine.", ""},
	{"smaller-than-parent", Warning, "A volume is smaller than its parent, so the guest sees the disk cut; a merge would have to shrink it.",
		"Extend the disk in the engine.", ""},
	{"not-allocated", Warning, "A preallocated raw volume has holes, as after a copy by a tool that leaves zeros out: the guest's writes may find no room.",
		"'fallocate -l SIZE FILE' gives it its room again, at any time.", ""},
	{"qcow2-corrupt", Error, "qemu-img check finds the structure of the image corrupt: what it holds cannot be relied on.",
		"Restore the volume from a backup, or try 'qemu-img check -r all' on a copy of it.", ""},
	{"qcow2-leaks", Warning, "qemu-img check finds clusters that nothing refers to: room is lost, the data is whole.",
		"While no guest uses it: 'qemu-img check -r leaks'.", ""},
	{"qcow2-unchecked", Error, "qemu-img cannot open the image, or not check it within its limits of memory and time.",
		"The message says why; restore the volume from a backup if it cannot be opened at all.", ""},

	{"parent-missing", Error, "The parent of a volume is not there: the disk cannot be read.",
		"Look for it in the trash and in orphan-data; else restore the disk from a backup.", ""},
	{"chain-loop", Error, "The parents of a volume lead back to itself: the disk cannot be read.",
		"Find out from the images' backing files what the chain was, and set PUUID by hand.", ""},
	{"voltype", Warning, "A volume is marked as the wrong place in its chain: LEAF though others are based on it, or INTERNAL though none is; engines refuse what they could do.",
		"The repair writes the right mark.", Rewrite},
	{"share-missing", Error, "A volume is based on a template whose hard link is missing in the image, so the disk cannot be opened.",
		"The repair links the template again.", Link},
	{"share-meta-cut", Warning, "The metadata of a template is another file here than in the template's image: a rewrite died before it was linked everywhere.",
		"The repair links the template's metadata again.", Link},
	{"share-data-cut", Warning, "The data of a template is a copy here instead of a hard link, as after a copy without hard links: it takes room twice, and nothing keeps both alike.",
		"If cmp says that both files are alike, replace the copy by a hard link while no guest uses it.", ""},
	{"unused-share", Warning, "An image has only a template's volume and none of its own: the create of a disk died half-way.",
		"The repair moves the image with its links to the trash; the template is not touched.", Trash},
	{"template-gone", Error, "The image that a template belongs to is gone, and only derived images still have its volume.",
		"Make the template's image directory again with hard links of its files from a derived image.", ""},
	{"duplicate", Error, "Two images have different volumes of the same id; VDSM takes any volume that it sees twice for a template.",
		"Find out which is the copy, and move that away by hand.", ""},

	{"mode", Warning, "A file or directory has a mode that keeps VDSM or QEMU out, or lets everybody write.",
		"The repair sets the mode that VDSM gives.", Permissions},
	{"owner", Warning, "A file or directory has another owner than the rest of the domain, so VDSM or QEMU may not open it.",
		"The repair sets the owner.", Permissions},
	{"in-use", Note, "A program has the image open and locked: a guest runs on it, or a tool is at work.",
		"Nothing; no repair is offered there, and qemu-img does not look at it.", ""},

	{"agent-file", Warning, "A file in .vdsm-agent that this agent does not know.",
		"Look whether a newer agent has used the domain; else remove it by hand.", ""},
	{"agent-temporary", Note, "A temporary file of the agent; one that died has left it, or one is at work.",
		"Nothing; the next agent that claims the domain removes it.", ""},
	{"trash", Note, "What a task has deleted lies in the trash and can come back.",
		"'vdsm-agentctl trash restore' or 'trash empty' with the task's id.", ""},
	{"trash-overdue", Warning, "What a task has deleted lies in the trash past its deadline, and no agent has removed it.",
		"Start the agent that this domain belongs to, or 'vdsm-agentctl trash empty' with the task's id.", ""},
	{"trash-unowned", Warning, "What lies in the trash is of a task that the running agent does not know, so nothing will restore or remove it.",
		"'vdsm-agentctl trash empty' with the task's id, or move the files back by hand as its manifest says.", ""},
	{"trash-damaged", Error, "An entry of the trash has a manifest that cannot be read, or other files than it says: it cannot be restored as it should.",
		"Look at the files; 'vdsm-agentctl trash empty' with the task's id removes what is there.", ""},
}

var byClass = func() map[Class]Kind {
	all := map[Class]Kind{}
	for _, k := range Kinds {
		all[k.Class] = k
	}
	return all
}()
