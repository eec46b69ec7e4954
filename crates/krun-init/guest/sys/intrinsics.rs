//! The four memory functions that the compiler calls and a C library would bring.
//!
//! The crate is `no_builtins`, or the compiler would recognise these loops and turn each into a call to itself.

/// # Safety
///
/// `to` and `from` are valid for `count` bytes and do not overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    for at in 0..count {
        // SAFETY: `at` is below `count`; the caller vouches for both ranges.
        unsafe { *to.add(at) = *from.add(at) };
    }
    to
}

/// # Safety
///
/// `to` and `from` are valid for `count` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if to.addr() <= from.addr() {
        // SAFETY: a copy upwards never reads a byte it has written when the target is below the source.
        unsafe { memcpy(to, from, count) };
    } else {
        for at in (0..count).rev() {
            // SAFETY: `at` is below `count`; the caller vouches for both ranges.
            unsafe { *to.add(at) = *from.add(at) };
        }
    }
    to
}

/// # Safety
///
/// `to` is valid for `count` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
    for at in 0..count {
        // SAFETY: `at` is below `count`; the caller vouches for the range.
        unsafe { *to.add(at) = byte.to_le_bytes()[0] };
    }
    to
}

/// # Safety
///
/// `a` and `b` are valid for `count` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    for at in 0..count {
        // SAFETY: `at` is below `count`; the caller vouches for both ranges.
        let (a, b) = unsafe { (*a.add(at), *b.add(at)) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

/// # Safety
///
/// As [`memcmp`].
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(a, b, count) }
}

/// # Safety
///
/// `string` ends with a NUL.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(string: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: the caller vouches for every byte up to the NUL.
    while unsafe { *string.add(length) } != 0 {
        length += 1;
    }
    length
}

/// Named by the tables of the precompiled `core`; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
