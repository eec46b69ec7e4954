//! Somebody else's driver: the crate `virtio-drivers` reads the specification on its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "helpers fail their test, and its numbers are small"
)]
#![expect(unsafe_code, reason = "a Hal hands out memory by address")]

use krun_console::config::{F_MULTIPORT, Role};
use krun_console::{Console, Port};
use krun_virtio::mmio::registers as reg;
use krun_virtio::testing::MockDriver;
use krun_virtio::vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use std::io::{Read, Write};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use virtio_drivers::device::console::{Size, VirtIOConsole};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Memory of the one guest of this process.
static MEMORY: OnceLock<Arc<GuestMemoryMmap>> = OnceLock::new();

fn pages(count: usize) -> u64 {
    // The mock driver, which does nothing here, has its rings below.
    static NEXT: AtomicU64 = AtomicU64::new(16 << 20);
    NEXT.fetch_add((count * PAGE_SIZE) as u64, Ordering::Relaxed)
}

struct Bounce;

// SAFETY: pages are aligned, zero and given out once; `share` and `unshare` copy through guest memory of their own.
unsafe impl Hal for Bounce {
    fn dma_alloc(count: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let address = pages(count);
        let host = MEMORY.get().unwrap().get_host_address(GuestAddress(address)).unwrap();
        (address, NonNull::new(host).unwrap())
    }

    unsafe fn dma_dealloc(_address: PhysAddr, _host: NonNull<u8>, _pages: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(_address: PhysAddr, _size: usize) -> NonNull<u8> {
        unreachable!("for PCI only")
    }

    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        let address = pages(buffer.len().div_ceil(PAGE_SIZE));
        if direction != BufferDirection::DeviceToDriver {
            // SAFETY: the caller promises a valid buffer that nobody else touches during the call.
            let bytes = unsafe { buffer.as_ref() };
            MEMORY.get().unwrap().write_slice(bytes, GuestAddress(address)).unwrap();
        }
        address
    }

    unsafe fn unshare(address: PhysAddr, mut buffer: NonNull<[u8]>, direction: BufferDirection) {
        if direction != BufferDirection::DriverToDevice {
            // SAFETY: as in `share`.
            let bytes = unsafe { buffer.as_mut() };
            MEMORY.get().unwrap().read_slice(bytes, GuestAddress(address)).unwrap();
        }
    }
}

/// Their transport over our registers.
struct Registers(Rc<MockDriver>);

impl Registers {
    fn select(&self, queue: u16) {
        self.0.write(reg::QUEUE_SEL, queue.into());
    }
}

impl Transport for Registers {
    fn device_type(&self) -> DeviceType {
        self.0.read(reg::DEVICE_ID).try_into().unwrap()
    }

    fn read_device_features(&mut self) -> u64 {
        let half = |select| {
            self.0.write(reg::DEVICE_FEATURES_SEL, select);
            u64::from(self.0.read(reg::DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    fn write_driver_features(&mut self, features: u64) {
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.0.write(reg::DRIVER_FEATURES_SEL, select);
            self.0.write(reg::DRIVER_FEATURES, half);
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.select(queue);
        self.0.read(reg::QUEUE_SIZE_MAX)
    }

    fn notify(&mut self, queue: u16) {
        self.0.kick(queue);
        self.0.turn();
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.0.status())
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.0.write(reg::STATUS, status.bits());
    }

    fn set_guest_page_size(&mut self, _size: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(&mut self, queue: u16, size: u32, descriptors: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        self.select(queue);
        self.0.write(reg::QUEUE_SIZE, size);
        for (low, high, address) in [
            (reg::QUEUE_DESC_LOW, reg::QUEUE_DESC_HIGH, descriptors),
            (reg::QUEUE_DRIVER_LOW, reg::QUEUE_DRIVER_HIGH, driver),
            (reg::QUEUE_DEVICE_LOW, reg::QUEUE_DEVICE_HIGH, device),
        ] {
            self.0.write(low, address as u32);
            self.0.write(high, (address >> 32) as u32);
        }
        self.0.write(reg::QUEUE_READY, 1);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.select(queue);
        self.0.write(reg::QUEUE_READY, 0);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.select(queue);
        self.0.read(reg::QUEUE_READY) != 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::from_bits_retain(self.0.acknowledge())
    }

    fn read_config_generation(&self) -> u32 {
        self.0.read(reg::CONFIG_GENERATION)
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let mut value = T::new_zeroed();
        self.0.transport().read(reg::CONFIG + offset as u64, value.as_mut_bytes());
        Ok(value)
    }

    fn write_config_space<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> Result<()> {
        self.0.write_config(offset as u64, value.as_bytes());
        Ok(())
    }
}

#[test]
fn another_driver_gets_on_with_the_device() {
    let (port, mut host) = Port::console().size(132, 43).pipe().unwrap();
    let console = Console::new(vec![port, Port::named("unknown to that driver")]).unwrap();
    let handle = console.handle();
    let mock = Rc::new(MockDriver::builder(console).build());
    MEMORY.set(mock.memory().clone()).unwrap();
    let mut driver = VirtIOConsole::<Bounce, _>::new(Registers(mock.clone())).unwrap();
    assert_eq!(mock.features() & F_MULTIPORT, 0);
    assert_eq!(driver.size().unwrap(), Some(Size { columns: 132, rows: 43 }));
    handle.resize(0, 80, 25).unwrap();
    mock.turn();
    assert_eq!(driver.size().unwrap(), Some(Size { columns: 80, rows: 25 }));

    for number in 0..300u32 {
        let line = format!("line {number} from the guest\n");
        driver.send_bytes(line.as_bytes()).unwrap();
        let mut got = vec![0; line.len()];
        host.read_exact(&mut got).unwrap();
        assert_eq!(got, line.as_bytes());

        let line = format!("line {number} from the host\n");
        host.write_all(line.as_bytes()).unwrap();
        let mut got = Vec::new();
        while got.len() < line.len() {
            mock.turn();
            while let Some(byte) = driver.recv(true).unwrap() {
                got.push(byte);
            }
        }
        assert_eq!(got, line.as_bytes());
    }
    assert!(!mock.needs_reset());
    // Their queues are tiny and ours are not: what is offered is a maximum.
    assert!(mock.ring(Role::Receive(0).queue()).size >= 32);
}
