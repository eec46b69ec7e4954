//! Virtio device model for Rust VMMs: guest memory as devices see it, split rings, device life cycle, executors and the virtio-mmio transport
