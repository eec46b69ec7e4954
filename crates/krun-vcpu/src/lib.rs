//! KVM virtual machines and vCPUs: memory slots, exits, kicks, register state; no virtio, no loader
