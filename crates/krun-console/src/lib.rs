//! A virtio-console device with multiport: ports are readable and writable host endpoints
