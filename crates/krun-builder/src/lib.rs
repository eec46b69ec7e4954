//! Composes KVM, a kernel, virtio devices and an init into a microVM that runs one command
