//! What has to be settled before the first tensor: threads, whether CUDA is there, and where a policy is computed in which type.

use crate::{Error, ModelConfig, Precision, Result};
use schemas::pipeline::{self, Dtype, Pipeline};
use tch::Device;

/// Where a pipeline's policy is computed, and in which type.
///
/// # Errors
/// [`Error::Options`] where it asks for a GPU and there is none, or for what its device cannot do.
pub fn place(pipeline: &Pipeline, config: &ModelConfig) -> Result<(Device, Precision)> {
    let settings = &pipeline.policy;
    let refuse = |text: &str| Err(Error::Options(text.into()));
    let device = match settings.device {
        pipeline::Device::Cpu => Device::Cpu,
        pipeline::Device::Auto if pipeline.deterministic || !register_cuda() => Device::Cpu,
        pipeline::Device::Cuda if !register_cuda() => {
            let hint = "hint: libtorch's CUDA libraries belong into LD_LIBRARY_PATH";
            return refuse(&format!("policy.device = \"cuda\": no GPU is found; allowed: \"auto\", \"cpu\"; {hint}"));
        }
        _ => Device::Cuda(0),
    };
    let cpu = device == Device::Cpu;
    let precision = match settings.dtype {
        Dtype::Bfloat16 if cpu => {
            return refuse("policy.dtype = \"bfloat16\": the CPU computes in float32; allowed there: \"auto\", \"float32\"");
        }
        Dtype::Bfloat16 => Precision::Bf16,
        Dtype::Auto if !cpu && config.dtype() == Some("bfloat16") => Precision::Bf16,
        Dtype::Auto | Dtype::Float32 => Precision::F32,
    };
    Ok((device, precision))
}

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
