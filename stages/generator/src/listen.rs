//! `generator --http ADDRESS --model FOLDER`: the policy for OpenAI clients, without a run.

use clap::Parser;
use generator::http::{App, Settings, serve};
use std::path::PathBuf;
use std::process::ExitCode;

/// Serves a model folder behind vLLM's HTTP interface.
#[derive(Parser)]
#[command(name = "generator", version, after_help = "Example:\n  generator --http 127.0.0.1:8000 --model smollm2 --served-model-name m")]
struct Arguments {
    /// Where to listen.
    #[arg(long)]
    http: String,
    /// A Hugging Face folder: config.json, model.safetensors, tokenizer.json, tokenizer_config.json.
    #[arg(long)]
    model: PathBuf,
    /// Names under which it is served.
    #[arg(long)]
    served_model_name: Vec<String>,
    /// Memory for keys and values, GiB.
    #[arg(long, default_value_t = 1.0)]
    kv_cache_gib: f64,
    /// The same as a share of this machine's memory, in place of GiB.
    #[arg(long)]
    gpu_memory_utilization: Option<f64>,
    #[arg(long, default_value_t = 128)]
    max_num_seqs: usize,
    #[arg(long, default_value_t = 2048)]
    max_num_batched_tokens: usize,
    /// Requests in hand; more are refused.
    #[arg(long, default_value_t = 1024)]
    max_num_queued_reqs: usize,
    #[arg(long)]
    max_model_len: Option<usize>,
    #[arg(long, default_value_t = 20)]
    max_logprobs: u32,
    /// `processed_logprobs` or `raw_logprobs`.
    #[arg(long, default_value = "processed_logprobs", value_parser = ["processed_logprobs", "raw_logprobs"])]
    logprobs_mode: String,
    /// Running replies start anew when weights change, in place of going on with the keys and values they have.
    #[arg(long)]
    recompute: bool,
    #[arg(long)]
    no_enable_prefix_caching: bool,
    /// On a GPU; a CPU always computes in float32.
    #[arg(long, default_value = "bfloat16", value_parser = ["bfloat16", "float32"])]
    dtype: String,
    #[arg(long)]
    threads: Option<usize>,
    /// Keys, any one of which opens the routes under /v1; `VLLM_API_KEY` without it. Without either they are open.
    #[arg(long, num_args = 1..)]
    api_key: Vec<String>,
}

/// The whole program.
pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let mut settings = Settings::of(&arguments.model);
    settings.names.clone_from(&arguments.served_model_name);
    settings.kv_cache_mib = match arguments.gpu_memory_utilization {
        Some(share) if share > 0.0 && share <= 1.0 => (share * memory_mib()? as f64) as usize,
        Some(share) => return Err(format!("`gpu-memory-utilization` is {share}; it must lie in (0, 1]")),
        None => (arguments.kv_cache_gib * 1024.0) as usize,
    };
    settings.max_num_seqs = arguments.max_num_seqs;
    settings.max_num_batched_tokens = arguments.max_num_batched_tokens;
    settings.max_queued = arguments.max_num_queued_reqs;
    settings.max_model_len = arguments.max_model_len;
    settings.max_logprobs = arguments.max_logprobs;
    settings.raw_logprobs = arguments.logprobs_mode == "raw_logprobs";
    settings.bfloat16 = arguments.dtype == "bfloat16";
    settings.keep_kv = !arguments.recompute;
    settings.prefix_caching = !arguments.no_enable_prefix_caching;
    settings.threads = arguments.threads.unwrap_or(settings.threads);
    settings.api_keys.clone_from(&arguments.api_key);
    if settings.api_keys.is_empty() {
        settings.api_keys.extend(std::env::var("VLLM_API_KEY"));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(|e| e.to_string())?;
    let app = App::open(&settings)?;
    runtime.block_on(serve(&arguments.http, app)).map_err(|e| format!("{}: {e}", arguments.http))
}

/// This machine's memory, MiB.
fn memory_mib() -> Result<usize, String> {
    let text = std::fs::read_to_string("/proc/meminfo").map_err(|e| format!("/proc/meminfo: {e}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.trim().split(' ').next()?.parse::<usize>().ok());
    kib.map(|kib| kib / 1024).ok_or_else(|| "/proc/meminfo names no MemTotal".to_string())
}
