//! How the C library's allocator gives memory back.

/// From this size on, in bytes, a buffer is a mapping of its own. Less than the 8 MiB that a decoder of `xz -6` takes.
#[cfg(target_env = "gnu")]
const APART_BYTES: libc::c_int = 4 << 20;

/// Makes large buffers go back to the system when they are freed, in a process whose threads take many of them.
///
/// glibc stops to map them apart once one was freed, and then takes them from the heaps of its threads, which stay as
/// large as they ever were (`M_MMAP_THRESHOLD` in `mallopt(3)`). Other C libraries have no such habit.
pub fn keep_large_buffers_apart() {
    #[cfg(target_env = "gnu")]
    {
        // What is free at the end of a heap is kept as before, when the other limit had grown: twice as much.
        let limits = [
            (libc::M_MMAP_THRESHOLD, APART_BYTES),
            (libc::M_TRIM_THRESHOLD, 2 * APART_BYTES),
        ];
        for (limit, bytes) in limits {
            // SAFETY: sets a number of the allocator, which takes its own lock.
            let is_set = unsafe { libc::mallopt(limit, bytes) };
            debug_assert_eq!(is_set, 1, "both are less than any limit of the allocator");
        }
    }
}

#[cfg(target_env = "gnu")]
#[cfg(test)]
mod tests {
    use super::*;

    fn resident_bytes() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let mut lines = status.lines();
        let size = lines.find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kibibytes: usize = size.trim().trim_end_matches(" kB").parse().unwrap();
        kibibytes << 10
    }

    #[test]
    fn a_large_buffer_goes_back_whatever_was_freed_before() {
        const BYTES: usize = 12 << 20;
        keep_large_buffers_apart();
        // What would move the limit.
        drop(std::hint::black_box(vec![1_u8; 2 * BYTES]));
        let before = resident_bytes();
        let large = std::hint::black_box(vec![1_u8; BYTES]);
        // Would lie above it in the heap, and hold it there.
        let small = std::hint::black_box(vec![1_u8; 1000]);
        assert!(resident_bytes() >= before + BYTES / 2);
        drop(large);
        let after = resident_bytes();
        drop(small);
        assert!(after < before + BYTES / 2, "{before} before, {after} after");
    }
}
