//! A virtio-fs device and FUSE server: a shared directory that the guest cannot leave
