package hostops

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/version"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// Capabilities is the answer of Host.getCapabilities. Engines read numbers of processors and memory as strings.
type Capabilities struct {
	UUID               string             `json:"uuid,omitempty"`
	SoftwareVersion    string             `json:"software_version"`
	SoftwareRevision   string             `json:"software_revision"`
	Packages           map[string]Package `json:"packages2"`
	OperatingSystem    OperatingSystem    `json:"operatingSystem"`
	KernelArgs         string             `json:"kernelArgs"`
	CPUCores           string             `json:"cpuCores"`
	CPUThreads         string             `json:"cpuThreads"`
	CPUSockets         string             `json:"cpuSockets"`
	CPUModel           string             `json:"cpuModel"`
	CPUSpeed           string             `json:"cpuSpeed"` // MHz
	CPUFlags           string             `json:"cpuFlags"` // joined by commas
	OnlineCPUs         string             `json:"onlineCpus"`
	MemSize            string             `json:"memSize"` // MiB
	NumaNodes          map[string]Node    `json:"numaNodes"`
	KVMEnabled         string             `json:"kvmEnabled"` // "true", "false"
	SupportedBlockSize map[string][]int   `json:"supported_block_size"`
	Agent              string             `json:"agent"` // that it is not VDSM
}

// Package is a program, and its version.
type Package struct {
	Version string `json:"version"`
	Release string `json:"release"`
}

// OperatingSystem is what the host runs.
type OperatingSystem struct {
	Name       string `json:"name"`
	Version    string `json:"version"`
	Release    string `json:"release"`
	PrettyName string `json:"pretty_name"`
}

// Node is a NUMA node.
type Node struct {
	CPUs        []int  `json:"cpus"`
	TotalMemory string `json:"totalMemory"` // MiB
}

func (h *Host) path(parts ...string) string {
	return filepath.Join(append([]string{h.options.Root}, parts...)...)
}

// text is a short file without the white space around it; "" if it cannot be read.
func (h *Host) text(parts ...string) string {
	b, err := os.ReadFile(h.path(parts...))
	if err != nil {
		return "" // what is not there is left out of the answer
	}
	return strings.TrimSpace(string(b))
}

func (h *Host) proc() (procfs.FS, error) {
	fs, err := procfs.NewFS(h.path("proc"))
	if err != nil {
		return fs, code.Errorf(code.General, "the kernel's view of this host cannot be read: %w", err)
	}
	return fs, nil
}

func (h *Host) capabilities() (*Capabilities, error) {
	fs, err := h.proc()
	if err != nil {
		return nil, err
	}
	cpus, err := fs.CPUInfo()
	if err == nil && len(cpus) == 0 {
		err = errors.New("the kernel lists no processor")
	}
	memory, memErr := fs.Meminfo()
	if err = errors.Join(err, memErr); err != nil || memory.MemTotalBytes == nil {
		return nil, code.Errorf(code.General, "the host's processors and memory cannot be read: %w", err)
	}
	v := version.Get()
	c := &Capabilities{
		UUID: h.uuid(), SoftwareVersion: v.Version, SoftwareRevision: v.Revision, Agent: "vdsm-agent",
		OperatingSystem: h.system(), KernelArgs: h.text("proc", "cmdline"), MemSize: mebibytes(*memory.MemTotalBytes),
		CPUModel: cpus[0].ModelName, CPUSpeed: strconv.FormatFloat(cpus[0].CPUMHz, 'f', -1, 64), CPUFlags: strings.Join(cpus[0].Flags, ","),
		KVMEnabled: "false", SupportedBlockSize: map[string][]int{"LOCALFS": {512, 4096}},
		CPUThreads: strconv.Itoa(len(cpus)), NumaNodes: h.nodes(),
		Packages: map[string]Package{
			"vdsm-agent": {v.Version, v.Revision}, "kernel": {h.text("proc", "sys", "kernel", "osrelease"), h.text("proc", "sys", "kernel", "version")},
		},
	}
	var online []string
	sockets, cores := map[string]bool{}, map[string]bool{}
	for _, cpu := range cpus {
		online = append(online, strconv.FormatUint(uint64(cpu.Processor), 10))
		sockets[cpu.PhysicalID] = true
		cores[cpu.PhysicalID+"/"+cpu.CoreID] = true
	}
	c.OnlineCPUs, c.CPUSockets, c.CPUCores = strings.Join(online, ","), strconv.Itoa(len(sockets)), strconv.Itoa(len(cores))
	if unix.Access(h.path("dev", "kvm"), unix.R_OK|unix.W_OK) == nil {
		c.KVMEnabled = "true"
	}
	return c, nil
}

// uuid is the id that the hardware has, or the installation if the hardware tells none; "" if neither does.
func (h *Host) uuid() string {
	if id := strings.ToLower(h.text("sys", "class", "dmi", "id", "product_uuid")); len(id) == 36 {
		return id
	}
	if id := h.text("etc", "machine-id"); len(id) == 32 {
		return id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:]
	}
	return ""
}

// system reads os-release(5).
func (h *Host) system() OperatingSystem {
	of := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader([]byte(h.text("etc", "os-release")))); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), "=")
		if unquoted, err := strconv.Unquote(value); err == nil {
			value = unquoted
		}
		of[key] = value
	}
	return OperatingSystem{Name: of["NAME"], Version: of["VERSION_ID"], Release: of["VERSION"], PrettyName: of["PRETTY_NAME"]}
}

// nodes are those that sysfs shows; none on a host that has no such thing.
func (h *Host) nodes() map[string]Node {
	out := map[string]Node{}
	dirs, err := filepath.Glob(h.path("sys", "devices", "system", "node", "node[0-9]*"))
	if err != nil {
		return out // the pattern is a good one
	}
	for _, dir := range dirs {
		name := strings.TrimPrefix(filepath.Base(dir), "node")
		n := Node{CPUs: list(h.text("sys", "devices", "system", "node", "node"+name, "cpulist")), TotalMemory: "0"}
		for lines := bufio.NewScanner(strings.NewReader(h.text("sys", "devices", "system", "node", "node"+name, "meminfo"))); lines.Scan(); {
			if f := strings.Fields(lines.Text()); len(f) >= 4 && f[2] == "MemTotal:" {
				if kib, err := strconv.ParseUint(f[3], 10, 64); err == nil {
					n.TotalMemory = mebibytes(kib << 10)
				}
			}
		}
		out[name] = n
	}
	return out
}

// list reads "0-3,8".
func list(text string) []int {
	out := []int{}
	for part := range strings.SplitSeq(text, ",") {
		first, last, ranged := strings.Cut(part, "-")
		a, err := strconv.Atoi(first)
		b := a
		if ranged && err == nil {
			b, err = strconv.Atoi(last)
		}
		for ; err == nil && a <= b; a++ {
			out = append(out, a)
		}
	}
	return slices.Clip(out)
}

func mebibytes(bytes uint64) string { return strconv.FormatUint(bytes>>20, 10) }
