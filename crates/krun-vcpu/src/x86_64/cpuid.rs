//! The CPUID leaves a guest sees: those KVM supports on this host, with the VM's own topology.
//!
//! Leaves are cited as in Intel's Software Developer's Manual volume 2A (CPUID) and AMD's Architecture Programmer's Manual
//! volume 3, appendix E.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};

/// What the guest's processors are like.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CpuConfig {
    /// How many there are. They form one package of as many cores, one thread each.
    pub vcpus: u32,
    /// Whether guests may run guests (VMX or SVM), where the host can do that.
    pub nested: bool,
    /// Whether KVM's local APIC has the TSC-deadline timer (`KVM_CAP_TSC_DEADLINE_TIMER`).
    pub tsc_deadline: bool,
    /// The frequency of the guest's time stamp counter in kHz, where it is known.
    pub tsc_khz: Option<u32>,
}

impl CpuConfig {
    /// `vcpus` processors without nested virtualization, with the TSC-deadline timer.
    pub fn new(vcpus: u32) -> Self {
        Self { vcpus, nested: false, tsc_deadline: true, tsc_khz: None }
    }
}

/// Leaf 1 ECX.
mod leaf1_ecx {
    pub(super) const VMX: u32 = 1 << 5;
    pub(super) const TSC_DEADLINE: u32 = 1 << 24;
    pub(super) const HYPERVISOR: u32 = 1 << 31;
}
/// Leaf 1 EDX: more than one logical processor in the package.
const HTT: u32 = 1 << 28;
/// Leaf 1 EBX 15:8: the cache line in units of 8 bytes.
const CLFLUSH_UNITS: u32 = 8 << 8;
/// Leaf 7 EDX: IA32_ARCH_CAPABILITIES exists.
const ARCH_CAPABILITIES: u32 = 1 << 29;
/// Leaf 0x80000001 ECX.
mod amd_ecx {
    pub(super) const CMP_LEGACY: u32 = 1 << 1;
    pub(super) const SVM: u32 = 1 << 2;
}
/// KVM's APIC timer counts nanoseconds.
const APIC_BUS_HZ: u32 = 1_000_000_000;

/// The leaves for the processor whose APIC id is `apic_id`, made from what KVM supports.
///
/// Leaves KVM does not support are not invented, and KVM's own (0x4000_0000 onwards: kvm-clock and the like) pass through.
/// A table with more entries than KVM takes is cut.
pub fn build_cpuid(supported: &[kvm_cpuid_entry2], config: &CpuConfig, apic_id: u32) -> Vec<kvm_cpuid_entry2> {
    let topology = Topology::new(config.vcpus, apic_id);
    let vendor = Vendor::of(supported);
    let mut entries: Vec<kvm_cpuid_entry2> = supported
        .iter()
        // Replaced as a whole below.
        .filter(|entry| !matches!(entry.function, 0xb | 0x1f))
        .copied()
        .collect();
    for entry in &mut entries {
        adapt(entry, config, &topology, vendor);
    }
    let highest = supported.iter().filter(|e| e.function == 0).map(|e| e.eax).next().unwrap_or(0);
    for function in [0xb, 0x1f] {
        if highest >= function {
            entries.extend(topology.extended_leaf(function));
        }
    }
    entries.truncate(KVM_MAX_CPUID_ENTRIES);
    entries
}

/// Whether KVM's own leaves are there: leaf 0x4000_0000 with its signature (Documentation/virt/kvm/x86/cpuid.rst). They
/// bring kvm-clock, without which kernels calibrate by the timer, in some nine thousand exits.
pub(super) fn has_kvm_leaves(supported: &[kvm_cpuid_entry2]) -> bool {
    let signature = [*b"KVMK", *b"VMKV", *b"M\0\0\0"].map(u32::from_le_bytes);
    supported.iter().any(|leaf| leaf.function == 0x4000_0000 && [leaf.ebx, leaf.ecx, leaf.edx] == signature)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vendor {
    Intel,
    Amd,
    Other,
}

impl Vendor {
    /// Leaf 0: the vendor's name in EBX, EDX, ECX.
    fn of(supported: &[kvm_cpuid_entry2]) -> Self {
        let Some(leaf) = supported.iter().find(|entry| entry.function == 0) else { return Self::Other };
        let mut name = Vec::with_capacity(12);
        for register in [leaf.ebx, leaf.edx, leaf.ecx] {
            name.extend_from_slice(&register.to_le_bytes());
        }
        match name.as_slice() {
            b"GenuineIntel" => Self::Intel,
            b"AuthenticAMD" | b"HygonGenuine" => Self::Amd,
            _ => Self::Other,
        }
    }
}

/// One package of `vcpus` cores with one thread each.
struct Topology {
    vcpus: u32,
    apic_id: u32,
    /// Bits of an APIC id that tell the package's processors apart.
    bits: u32,
}

impl Topology {
    fn new(vcpus: u32, apic_id: u32) -> Self {
        let vcpus = vcpus.clamp(1, 1 << 16);
        Self { vcpus, apic_id, bits: vcpus.next_power_of_two().trailing_zeros() }
    }

    /// The APIC ids reserved for the package: a power of two.
    fn ids(&self) -> u32 {
        1 << self.bits
    }

    /// Leaves 0xb and 0x1f: the levels thread and core, then the end of the list.
    fn extended_leaf(&self, function: u32) -> [kvm_cpuid_entry2; 3] {
        const THREAD: u32 = 1;
        const CORE: u32 = 2;
        let level = |index: u32, shift: u32, count: u32, kind: u32| kvm_cpuid_entry2 {
            function,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: count,
            ecx: index | kind << 8,
            edx: self.apic_id,
            ..Default::default()
        };
        [level(0, 0, 1, THREAD), level(1, self.bits, self.vcpus, CORE), level(2, 0, 0, 0)]
    }
}

fn adapt(entry: &mut kvm_cpuid_entry2, config: &CpuConfig, topology: &Topology, vendor: Vendor) {
    let many = topology.vcpus > 1;
    match entry.function {
        0x1 => {
            let ids = topology.ids().min(0xff);
            entry.ebx = entry.ebx & 0xff | CLFLUSH_UNITS | ids << 16 | (topology.apic_id & 0xff) << 24;
            entry.ecx |= leaf1_ecx::HYPERVISOR;
            set(&mut entry.ecx, leaf1_ecx::TSC_DEADLINE, config.tsc_deadline);
            if !config.nested {
                entry.ecx &= !leaf1_ecx::VMX;
            }
            set(&mut entry.edx, HTT, many);
        }
        // Intel's caches. EAX 4:0 is the type (0: none), 7:5 the level, 25:14 the processors that share it, 31:26 the
        // cores of the package; both less one.
        0x4 if entry.eax & 0x1f != 0 => {
            let sharing = if entry.eax >> 5 & 0x7 >= 3 { topology.ids() - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharing.min(0xfff) << 14 | (topology.ids() - 1).min(0x3f) << 26;
        }
        // No frequency boosting (EAX 1) and no energy bias (ECX 3) for guests.
        0x6 => {
            entry.eax &= !(1 << 1);
            entry.ecx &= !(1 << 3);
        }
        // KVM shows this Intel register on AMD too, where kernels have no use for it.
        0x7 if entry.index == 0 && vendor == Vendor::Amd => entry.edx &= !ARCH_CAPABILITIES,
        // No performance counters.
        0xa => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        // TSC frequency = ECX * EBX / EAX. Kernels take ECX for the APIC timer's frequency as well, so it must be that.
        0x15 => match config.tsc_khz {
            Some(khz) if vendor == Vendor::Intel => {
                (entry.eax, entry.ebx, entry.ecx) = (APIC_BUS_HZ / 1000, khz, APIC_BUS_HZ);
            }
            _ => (entry.eax, entry.ebx, entry.ecx) = (0, 0, 0),
        },
        0x8000_0001 => {
            if !config.nested {
                entry.ecx &= !amd_ecx::SVM;
            }
            if vendor == Vendor::Amd {
                set(&mut entry.ecx, amd_ecx::CMP_LEGACY, many);
            }
        }
        // ECX 7:0 threads of the package less one, 15:12 bits of an APIC id.
        0x8000_0008 if vendor == Vendor::Amd => {
            let threads = (topology.vcpus - 1).min(0xff);
            entry.ecx = entry.ecx & !0xf0ff | threads | topology.bits.min(0xf) << 12;
        }
        // SVM's features.
        0x8000_000a if !config.nested => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        // AMD's caches: as leaf 4, without the cores.
        0x8000_001d if vendor == Vendor::Amd && entry.eax & 0x1f != 0 => {
            let sharing = if entry.eax >> 5 & 0x7 >= 3 { topology.ids() - 1 } else { 0 };
            entry.eax = entry.eax & !(0xfff << 14) | sharing.min(0xfff) << 14;
        }
        // EAX the APIC id, EBX 7:0 the core, 15:8 its threads less one, ECX 7:0 the node, 10:8 the nodes less one.
        0x8000_001e if vendor == Vendor::Amd => {
            entry.eax = topology.apic_id;
            entry.ebx = topology.apic_id & 0xff;
            (entry.ecx, entry.edx) = (0, 0);
        }
        _ => {}
    }
}

fn set(register: &mut u32, bits: u32, on: bool) {
    if on {
        *register |= bits;
    } else {
        *register &= !bits;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaf(function: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = registers;
        kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..Default::default() }
    }

    fn vendor(name: &[u8; 12], highest: u32) -> kvm_cpuid_entry2 {
        let word = |at: usize| u32::from_le_bytes(name[at..at + 4].try_into().unwrap());
        leaf(0, [highest, word(0), word(8), word(4)])
    }

    fn find(table: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        *table.iter().find(|e| e.function == function && e.index == index).unwrap()
    }

    #[test]
    fn intel_with_six_cores() {
        let supported = [
            vendor(b"GenuineIntel", 0x1f),
            leaf(1, [0x50654, 0xffff_0042, 1 << 5, 1 << 28]),
            leaf(4, [0x1c00_4121, 1, 2, 3]),
            leaf(4, [0x1c03_c163, 1, 2, 3]),
            leaf(6, [0x6, 0, 0x9, 0]),
            leaf(0xa, [1, 2, 3, 4]),
            leaf(0xb, [9, 9, 9, 9]),
            leaf(0x15, [2, 3, 4, 5]),
            leaf(0x4000_0000, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]),
        ];
        let config = CpuConfig { tsc_khz: Some(2_100_000), ..CpuConfig::new(6) };
        let table = build_cpuid(&supported, &config, 5);
        let one = find(&table, 1, 0);
        assert_eq!(one.ebx, 5 << 24 | 8 << 16 | 8 << 8 | 0x42);
        assert_eq!(one.ecx, 1 << 31 | 1 << 24, "hypervisor and TSC deadline, no VMX");
        let caches: Vec<u32> = table.iter().filter(|e| e.function == 4).map(|e| e.eax).collect();
        assert_eq!(caches, [7 << 26 | 0x121, 7 << 26 | 7 << 14 | 0x163], "private first level, shared third level");
        assert_eq!(find(&table, 6, 0).eax, 0x4);
        assert_eq!(find(&table, 6, 0).ecx, 0x1);
        assert_eq!(find(&table, 0xa, 0).eax, 0);
        for function in [0xb, 0x1f] {
            let [threads, cores, end] = [0, 1, 2].map(|index| find(&table, function, index));
            assert_eq!((threads.eax, threads.ebx, threads.ecx, threads.edx), (0, 1, 0x100, 5));
            assert_eq!((cores.eax, cores.ebx, cores.ecx, cores.edx), (3, 6, 0x201, 5));
            assert_eq!((end.eax, end.ebx, end.ecx, end.edx), (0, 0, 2, 5));
        }
        let tsc = find(&table, 0x15, 0);
        assert_eq!(u64::from(tsc.ecx) * u64::from(tsc.ebx) / u64::from(tsc.eax), 2_100_000_000);
        assert_eq!(find(&table, 0x4000_0000, 0), supported[8]);
        assert!(has_kvm_leaves(&table) && !has_kvm_leaves(&supported[..8]));
    }

    #[test]
    fn amd_with_two_cores() {
        let supported = [
            vendor(b"AuthenticAMD", 0xd),
            leaf(7, [0, 1, 2, 1 << 29 | 1]),
            leaf(0x8000_0001, [0, 0, 1 << 22 | 1 << 2, 0]),
            leaf(0x8000_0008, [0x3030, 1, 0x7007, 3]),
            leaf(0x8000_000a, [1, 8, 0, 9]),
            leaf(0x8000_001d, [0x1c163 | 0xfff << 14, 1, 2, 3]),
            leaf(0x8000_001e, [1, 2, 3, 4]),
        ];
        let table = build_cpuid(&supported, &CpuConfig::new(2), 1);
        assert_eq!(find(&table, 7, 0).edx, 1);
        assert_eq!(find(&table, 0x8000_0001, 0).ecx, 1 << 22 | 1 << 1);
        assert_eq!(find(&table, 0x8000_0008, 0).ecx, 1 << 12 | 1);
        assert_eq!(find(&table, 0x8000_000a, 0).edx, 0);
        assert_eq!(find(&table, 0x8000_001d, 0).eax >> 14 & 0xfff, 1);
        let id = find(&table, 0x8000_001e, 0);
        assert_eq!((id.eax, id.ebx, id.ecx, id.edx), (1, 1, 0, 0));
        assert_eq!(find(&table, 0xb, 1).ebx, 2);
        assert!(!table.iter().any(|e| e.function == 0x1f), "leaves above the highest are not invented");
        let nested = build_cpuid(&supported, &CpuConfig { nested: true, ..CpuConfig::new(2) }, 1);
        assert_eq!(find(&nested, 0x8000_0001, 0).ecx & 1 << 2, 1 << 2);
        assert_eq!(find(&nested, 0x8000_000a, 0).edx, 9);
    }

    proptest! {
        #[test]
        fn any_table_and_any_count(
            leaves in prop::collection::vec(
                (prop_oneof![0u32..0x20, 0x4000_0000u32..0x4000_0004, 0x8000_0000u32..0x8000_0022], any::<u32>(), any::<[u32; 4]>()),
                0..400,
            ),
            vcpus: u32,
            apic_id: u32,
            nested: bool,
            tsc_khz: Option<u32>,
        ) {
            let supported: Vec<_> =
                leaves.iter().map(|(f, index, r)| kvm_cpuid_entry2 { index: *index, ..leaf(*f, *r) }).collect();
            let config = CpuConfig { nested, tsc_khz, ..CpuConfig::new(vcpus) };
            let table = build_cpuid(&supported, &config, apic_id);
            prop_assert!(table.len() <= KVM_MAX_CPUID_ENTRIES);
            for entry in &table {
                match entry.function {
                    1 => {
                        prop_assert_eq!(entry.ebx >> 24, apic_id & 0xff);
                        prop_assert!(entry.ecx & leaf1_ecx::HYPERVISOR != 0);
                        prop_assert!(nested || entry.ecx & leaf1_ecx::VMX == 0);
                    }
                    0xb | 0x1f => prop_assert_eq!(entry.edx, apic_id),
                    0x4000_0000..=0x4000_0003 => prop_assert!(supported.contains(entry)),
                    _ => {}
                }
            }
        }

        #[test]
        fn the_ids_of_a_package_differ_in_its_bits(vcpus in 1u32..5000) {
            let topology = Topology::new(vcpus, 0);
            prop_assert!((vcpus - 1) >> topology.bits == 0, "the last id fits");
            prop_assert!(topology.bits == 0 || (vcpus - 1) >> (topology.bits - 1) != 0, "no bit too many");
        }
    }
}
