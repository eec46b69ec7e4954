//! Loads Linux kernels into guest memory: libkrunfw bundles, ELF and PVH, bzImage, initrd, boot parameters and MP tables
