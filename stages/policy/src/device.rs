//! What has to be settled before the first tensor: threads, and whether CUDA is there.

/// Sets the number of threads that one operation of libtorch uses, for the calling thread. Call it in each thread that
/// computes: every thread of ours has its own OpenMP pool.
pub fn set_threads(threads: usize) {
    tch::set_num_threads(i32::try_from(threads.max(1)).unwrap_or(i32::MAX));
}

/// Registers CUDA with libtorch where its library can be found, and says whether a device can be used. Call it before the
/// first tensor. Binaries link the CPU's part only, so that one binary serves machines with and without a GPU.
pub fn register_cuda() -> bool {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LAZY};
    #[expect(unsafe_code, reason = "libtorch_cuda registers its kernels from static constructors; loading it is the only way to have them")]
    let library = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_LAZY | RTLD_GLOBAL) };
    if let Ok(library) = library {
        // The kernels stay registered for good, so the library must never be unloaded.
        std::mem::forget(library);
    }
    tch::Cuda::is_available()
}
