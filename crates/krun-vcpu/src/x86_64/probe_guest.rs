//! The probe's guest: a few instructions that an emulator of privileged code does not know.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::error::Error;
use crate::vcpu::Vcpu;
use crate::vm::KvmVm;

use super::entry::{Entry, LongMode};

/// The guest writes its result here.
pub(crate) const PORT: u16 = 0xf4;
/// What a processor computes.
pub(crate) const RESULT: u8 = 42;

const CODE_ADDRESS: GuestAddress = GuestAddress(0x1_0000);
const MEMORY_SIZE: usize = 0x2_0000;

/// 20 + 20 by SSE2, 1 + 1 by x87, and where there is AVX, 20 - 20 by that.
const CODE: &[u8] = &[
    0x0f, 0x20, 0xe0, // mov rax, cr4
    0x0d, 0x00, 0x06, 0x00, 0x00, // or eax, OSFXSR | OSXMMEXCPT
    0x0f, 0x22, 0xe0, // mov cr4, rax
    0xdb, 0xe3, // fninit
    0xb8, 0x14, 0x00, 0x00, 0x00, // mov eax, 20
    0xf2, 0x0f, 0x2a, 0xc0, // cvtsi2sd xmm0, eax
    0xf2, 0x0f, 0x58, 0xc0, // addsd xmm0, xmm0
    0xf2, 0x0f, 0x2c, 0xd8, // cvttsd2si ebx, xmm0
    0xd9, 0xe8, // fld1
    0xd8, 0xc0, // fadd st, st(0)
    0x48, 0x83, 0xec, 0x08, // sub rsp, 8
    0xdb, 0x1c, 0x24, // fistp dword ptr [rsp]
    0x03, 0x1c, 0x24, // add ebx, [rsp]
    0x53, // push rbx
    0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1
    0x0f, 0xa2, // cpuid
    0x5b, // pop rbx
    0x81, 0xe1, 0x00, 0x00, 0x00, 0x14, // and ecx, AVX | XSAVE
    0x81, 0xf9, 0x00, 0x00, 0x00, 0x14, // cmp ecx, AVX | XSAVE
    0x75, 0x2f, // jne done
    0x0f, 0x20, 0xe0, // mov rax, cr4
    0x0d, 0x00, 0x00, 0x04, 0x00, // or eax, OSXSAVE
    0x0f, 0x22, 0xe0, // mov cr4, rax
    0x31, 0xc9, // xor ecx, ecx
    0x0f, 0x01, 0xd0, // xgetbv
    0x83, 0xc8, 0x07, // or eax, x87 | SSE | AVX
    0x0f, 0x01, 0xd1, // xsetbv
    0xb8, 0x14, 0x00, 0x00, 0x00, // mov eax, 20
    0xc5, 0xf3, 0x2a, 0xc8, // vcvtsi2sd xmm1, xmm1, eax
    0xc5, 0xec, 0x57, 0xd2, // vxorps ymm2, ymm2, ymm2
    0xc5, 0xf5, 0x58, 0xca, // vaddpd ymm1, ymm1, ymm2
    0xc5, 0xfb, 0x2c, 0xc1, // vcvttsd2si eax, xmm1
    0x8d, 0x5c, 0x03, 0xec, // lea ebx, [rbx + rax - 20]
    // done:
    0x89, 0xd8, // mov eax, ebx
    0xe6, 0xf4, // out PORT, al
    0xf4, // hlt
];

/// Makes the guest's memory and its one vCPU, about to run.
pub(crate) fn prepare(vm: &KvmVm) -> Result<Vcpu, Error> {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY_SIZE)])
        .map_err(|error| Error::Kvm { what: "map the probe's memory", source: std::io::Error::other(error) })?;
    memory.write_slice(CODE, CODE_ADDRESS).map_err(|source| Error::GuestMemory {
        what: "probe's code",
        address: CODE_ADDRESS.0,
        source,
    })?;
    vm.add_memory(&memory)?;
    let vcpu = vm.create_vcpu(0)?;
    vcpu.configure(&vm.cpu_config())?;
    vcpu.set_entry(&memory, &Entry::LongMode(LongMode::new(CODE_ADDRESS, GuestAddress(0))))?;
    Ok(vcpu)
}
