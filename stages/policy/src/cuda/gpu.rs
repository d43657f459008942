//! The GPU as the decoder sees it: a stream of its own, its kernels by name, cuBLAS, and graphs.

#![expect(unsafe_code, reason = "kernels, cuBLAS and copies take raw addresses of device memory")]

use crate::{Error, Result};
use cudarc::cublas::{self, CudaBlas, sys as blas};
use cudarc::driver::sys::{
    CUgraphInstantiate_flags, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig, CUstreamCaptureMode,
    cuLaunchKernelEx,
};
use cudarc::driver::{CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaModule, CudaStream, result};
use cudarc::nvrtc::{CompileOptions, Ptx, compile_ptx_with_opts};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fmt::Display;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Room for cuBLAS, as much as it is advised to have on Hopper; its own would be taken anew inside a graph.
const WORKSPACE: i64 = 32 << 20;
/// Tensor cores for bfloat16 came with the first; with the second, kernels that start while the one before them ends. The driver
/// compiles on for what is there.
const ARCHITECTURES: [&str; 2] = ["compute_80", "compute_90"];

/// What a kernel is called with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Argument {
    /// Device memory.
    At(u64),
    Int(i32),
    Float(f32),
}

/// Blocks and threads of a launch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub(crate) blocks: [usize; 3],
    pub(crate) threads: usize,
    /// Bytes of shared memory that the kernel does not name itself.
    pub(crate) shared: usize,
}

/// Compiled kernels, by name, and the stream that they run on.
pub(crate) struct Kernels {
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    known: RefCell<BTreeMap<&'static str, CudaFunction>>,
    /// Whether a kernel may start while the one before it ends.
    overlap: bool,
}

pub(crate) struct Gpu {
    kernels: Kernels,
    stream: Arc<CudaStream>,
    /// Where libtorch computes.
    torch: Arc<CudaStream>,
    event: CudaEvent,
    blas: CudaBlas,
    _workspace: Tensor,
    pub(crate) processors: usize,
}

/// A step that is launched as a whole.
pub(crate) struct Graph(CudaGraph);

// SAFETY: CUDA asks that one thread at a time uses a graph, not that it is always the same one.
unsafe impl Send for Graph {}

impl Graph {
    pub(crate) fn launch(&self) -> Result<()> {
        self.0.launch().map_err(failed("a graph"))
    }
}

/// What CUDA says went wrong, with what was being done.
fn failed<E: Display>(what: &str) -> impl FnOnce(E) -> Error + '_ {
    move |error| Error::Cuda(format!("{what}: {error}"))
}

fn require(there: bool, library: &str) -> Result<()> {
    let hint = "hint: put libtorch's CUDA libraries into LD_LIBRARY_PATH";
    if there { Ok(()) } else { Err(Error::Cuda(format!("{library} is not found; {hint}"))) }
}

/// A source, compiled for any GPU that can run it, or for those on which kernels `overlap`. Needs no GPU.
///
/// # Errors
/// [`Error::Cuda`] where the compiler is missing or refuses them.
pub(crate) fn compile(source: &str, overlap: bool) -> Result<Ptx> {
    // SAFETY: it only tries to open a library.
    require(unsafe { cudarc::nvrtc::sys::is_culib_present() }, "libnvrtc")?;
    let options = CompileOptions {
        arch: Some(ARCHITECTURES[usize::from(overlap)]),
        options: vec!["--std=c++17".into()],
        ..CompileOptions::default()
    };
    compile_ptx_with_opts(source, options).map_err(|e| Error::Cuda(format!("kernels: {e:?}")))
}

/// The device's context, the one that libtorch has too.
fn context(ordinal: usize) -> Result<Arc<CudaContext>> {
    // SAFETY: it only tries to open a library.
    require(unsafe { cudarc::driver::sys::is_culib_present() }, "libcuda")?;
    CudaContext::new(ordinal).map_err(failed("the device"))
}

impl Kernels {
    /// Kernels that run in order with what libtorch is asked for.
    ///
    /// # Errors
    /// [`Error::Cuda`] where a library is missing, or the kernels cannot be compiled.
    pub(crate) fn beside_torch(ordinal: usize, source: &str) -> Result<Kernels> {
        let stream = context(ordinal)?.default_stream();
        Kernels::on(stream, source, false)
    }

    fn on(stream: Arc<CudaStream>, source: &str, overlap: bool) -> Result<Kernels> {
        let module = stream.context().load_module(compile(source, overlap)?).map_err(failed("kernels"))?;
        Ok(Kernels { stream, module, known: RefCell::default(), overlap })
    }

    /// Runs a kernel. The caller answers for the arguments: their number, their order, and that the memory they
    /// name is there until the stream has been waited for.
    pub(crate) fn launch(&self, name: &'static str, grid: Grid, arguments: &[Argument]) -> Result<()> {
        let mut known = self.known.borrow_mut();
        let kernel = match known.entry(name) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => new.insert(self.module.load_function(name).map_err(failed(name))?),
        };
        let pointer = |argument: &Argument| match argument {
            Argument::At(address) => (&raw const *address).cast_mut().cast(),
            Argument::Int(number) => (&raw const *number).cast_mut().cast(),
            Argument::Float(number) => (&raw const *number).cast_mut().cast(),
        };
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(pointer).collect();
        let mut overlap = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: i32::from(self.overlap) },
        };
        let [x, y, z] = grid.blocks.map(|count| count as u32);
        let config = CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: grid.threads as u32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: grid.shared as u32,
            hStream: self.stream.cu_stream(),
            attrs: &raw mut overlap,
            numAttrs: 1,
        };
        self.stream.context().bind_to_thread().map_err(failed(name))?;
        // SAFETY: as this function says; arguments and attribute outlive the call, which copies them.
        unsafe { cuLaunchKernelEx(&raw const config, kernel.cu_function(), pointers.as_mut_ptr(), std::ptr::null_mut()) }
            .result()
            .map_err(failed(name))
    }
}

impl Gpu {
    /// # Errors
    /// [`Error::Cuda`] where a library is missing, or the kernels cannot be compiled.
    pub(crate) fn new(ordinal: usize) -> Result<Gpu> {
        let context = context(ordinal)?;
        // SAFETY: it only tries to open a library.
        require(unsafe { blas::is_culib_present() }, "libcublas")?;
        let overlap = context.compute_capability().map_err(failed("the device"))?.0 >= 9;
        let stream = context.new_stream().map_err(failed("a stream"))?;
        let kernels = Kernels::on(stream.clone(), include_str!("kernels.cu"), overlap)?;
        let blas = CudaBlas::new(stream.clone()).map_err(|e| Error::Cuda(format!("cuBLAS: {e:?}")))?;
        let workspace = Tensor::f_zeros([WORKSPACE], (Kind::Uint8, Device::Cuda(ordinal)))?;
        // SAFETY: the room is as large as said, and lives as long as the handle.
        unsafe { blas::cublasSetWorkspace_v2(*blas.handle(), workspace.data_ptr().cast(), WORKSPACE as usize) }
            .result()
            .map_err(|e| Error::Cuda(format!("cuBLAS: {e:?}")))?;
        let count = cudarc::driver::sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let processors = context.attribute(count).map_err(failed("the device"))? as usize;
        let event = context.new_event(None).map_err(failed("an event"))?;
        let torch = context.default_stream();
        Ok(Gpu { kernels, stream, torch, event, blas, _workspace: workspace, processors })
    }

    /// Runs one of the decoder's kernels; see [`Kernels::launch`].
    pub(crate) fn launch(&self, name: &'static str, grid: Grid, arguments: &[Argument]) -> Result<()> {
        self.kernels.launch(name, grid, arguments)
    }

    /// `out (rows x n) = x (rows x k) · weightᵀ (n x k) + keep · out`, bfloat16; `out` is f32 where `scores` says so.
    pub(crate) fn product(&self, weight: u64, x: u64, out: u64, [rows, n, k]: [usize; 3], keep: f32, scores: bool) -> Result<()> {
        let (one, keep) = (1.0f32, keep);
        let half = blas::cudaDataType::CUDA_R_16BF;
        let kind = if scores { blas::cudaDataType::CUDA_R_32F } else { half };
        let [rows, n, k] = [rows, n, k].map(|size| size as i32);
        // SAFETY: the addresses are of matrices of these sizes; both factors outlive the call. cuBLAS counts columns first, so
        // that our rows are its columns.
        unsafe {
            cublas::result::gemm_ex(
                *self.blas.handle(),
                blas::cublasOperation_t::CUBLAS_OP_T,
                blas::cublasOperation_t::CUBLAS_OP_N,
                n,
                rows,
                k,
                (&raw const one).cast(),
                weight as *const _,
                half,
                k,
                x as *const _,
                half,
                k,
                (&raw const keep).cast(),
                out as *mut _,
                kind,
                n,
                blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(|e| Error::Cuda(format!("cuBLAS: {e:?}")))
    }

    /// What libtorch was asked for so far is done before anything that comes next.
    pub(crate) fn after_torch(&self) -> Result<()> {
        self.event.record(&self.torch).map_err(failed("an event"))?;
        self.stream.wait(&self.event).map_err(failed("an event"))
    }

    /// Copies to device memory, in order with launches. `from` has to stay as it is until the stream has been waited for.
    pub(crate) fn upload(&self, from: &[u32], to: u64) -> Result<()> {
        // SAFETY: the caller gives room of that size.
        unsafe { result::memcpy_htod_async(to, from, self.stream.cu_stream()) }.map_err(failed("a copy to the device"))
    }

    /// Copies from device memory once all before it is done, and waits for it.
    pub(crate) fn download<T>(&self, from: u64, to: &mut [T]) -> Result<()> {
        // SAFETY: the caller names memory of that size.
        unsafe { result::memcpy_dtoh_async(to, from, self.stream.cu_stream()) }.map_err(failed("a copy from the device"))?;
        self.stream.synchronize().map_err(failed("a step on the device"))
    }

    /// What `work` launches, as one graph; nothing of it has run yet.
    pub(crate) fn record(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        // Other threads may take memory meanwhile: only what is launched here belongs to the graph.
        self.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).map_err(failed("a graph"))?;
        let done = work();
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0)).map_err(failed("a graph"));
        done?;
        graph?.map(Graph).ok_or_else(|| Error::Cuda("a graph: nothing was launched".into()))
    }

    /// Host memory that copies read and write at full speed.
    pub(crate) fn pinned(&self, words: usize) -> Result<cudarc::driver::PinnedHostSlice<u32>> {
        // SAFETY: every value is written before it is read, and any bits are a number.
        unsafe { self.stream.context().alloc_pinned_with_flags(words, 0) }.map_err(failed("host memory"))
    }
}
