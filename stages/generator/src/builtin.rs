//! The policy crate's engine behind the library's seam.

use generator::{Engine, Files, Generated, Load, Picture, Request};
use schemas::pipeline::Pipeline;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread::ThreadId;
use std::time::Instant;

pub(crate) struct Builtin {
    engine: policy::Engine,
    threads: usize,
    /// The thread whose OpenMP pool has its size already.
    set_on: Option<ThreadId>,
    kv_cache_mib: f64,
    computing_s: f64,
    context: Arc<context::Context>,
    /// Texts that end a request's reply.
    stops: BTreeMap<u64, Vec<String>>,
    /// For a policy with eyes.
    levels: Option<policy::Levels>,
    /// The version that a thread makes ready.
    loading: Option<(u64, Receiver<Result<policy::Prepared, String>>)>,
    deterministic: bool,
}

/// Weights of more bytes than this are made ready beside the replies; fewer are there before a thread would have started.
const BESIDE: usize = 16 << 20;

/// Tokens that a stop text may hang on.
const TAIL: usize = 48;

impl Builtin {
    pub(crate) fn new(pipeline: &Pipeline, files: &Files) -> Result<Builtin, String> {
        let config = policy::ModelConfig::from_json(&files.config).map_err(|e| e.to_string())?;
        let tokenizer = &files.context.tokenizer;
        if config.vocab_size < tokenizer.vocab_size() {
            let (rows, ids) = (config.vocab_size, tokenizer.vocab_size());
            return Err(format!("config.json has vocab_size {rows}, tokenizer.json holds {ids} ids; hint: they are of different policies"));
        }
        let images = &files.context.images;
        if let Some(vision) = &config.vision {
            let image = tokenizer.special_id(context::tokenizer::IMAGE_PAD);
            vision.check_processor(image, images.patch, images.merge).map_err(|e| e.to_string())?;
        }
        let levels = config.vision.as_ref().map(|_| policy::Levels(Arc::new(images.levels())));
        let settings = &pipeline.generator;
        let (device, precision) = policy::place(pipeline, &config).map_err(|e| e.to_string())?;
        let options = policy::EngineOptions {
            max_num_seqs: settings.max_num_seqs as usize,
            max_num_batched_tokens: settings.max_num_batched_tokens as usize,
            kv_cache_mib: settings.kv_cache_mib as usize,
            banned: tokenizer.banned_ids(config.vocab_size),
            deterministic: pipeline.deterministic,
            keep_kv: settings.keep_kv_across_versions,
            threads: settings.threads as usize,
            device,
            bfloat16: precision == policy::Precision::Bf16,
            ..policy::EngineOptions::default()
        };
        let mut engine = policy::Engine::new(config, options).map_err(|e| e.to_string())?;
        if let Some(lora) = pipeline.policy.lora.as_ref().filter(|_| pipeline.publishes_adapters()) {
            let folder = &pipeline.policy.folder;
            let base = if folder.is_empty() { policy::Base::Seed(pipeline.seed) } else { policy::Base::Folder(Path::new(folder)) };
            engine.adapt(base, &policy::LoraOptions::from(lora)).map_err(|e| format!("policy.folder: {e}"))?;
        }
        tracing::info!("cache for keys and values: {} MiB, {} tokens", settings.kv_cache_mib, engine.kv_tokens());
        let kv_cache_mib = f64::from(settings.kv_cache_mib);
        Ok(Builtin {
            engine,
            threads: settings.threads as usize,
            set_on: None,
            kv_cache_mib,
            computing_s: 0.0,
            context: files.context.clone(),
            stops: BTreeMap::new(),
            levels,
            loading: None,
            deterministic: pipeline.deterministic,
        })
    }

    /// Replies that said a stop text just now: they end with the token that completes it, which the stage looks for again.
    fn stopped(&mut self) -> Vec<policy::Generated> {
        let says = |ticket: &u64, stop: &[String]| {
            let ids = self.engine.sampled(*ticket).unwrap_or_default();
            let text = self.context.tokenizer.decode(&ids[ids.len().saturating_sub(TAIL)..]);
            stop.iter().any(|stop| text.contains(stop.as_str()))
        };
        let tickets: Vec<u64> = self.stops.iter().filter(|(ticket, stop)| says(ticket, stop)).map(|(ticket, _)| *ticket).collect();
        tickets.into_iter().filter_map(|ticket| self.engine.stop(ticket)).collect()
    }

    /// Every thread has an OpenMP pool of its own, and the driver may move between threads.
    fn set_threads(&mut self) {
        let current = std::thread::current().id();
        if self.set_on != Some(current) {
            policy::set_threads(self.threads);
            self.set_on = Some(current);
        }
    }
}

fn shown(picture: Picture, levels: &policy::Levels) -> policy::Shown {
    let Picture { digest, offset, grid, patches, png: _ } = picture;
    policy::Shown { picture: policy::Picture { offset, grid, patches, levels: levels.clone() }, digest }
}

fn given(g: policy::Generated) -> Generated {
    let failed = g.broken.then(|| "the policy's scores are no numbers; hint: its weights are broken".to_string());
    Generated { ticket: g.ticket, tokens: g.tokens, logprobs: g.logprobs, versions: g.versions, cut: g.cut, failed }
}

impl Engine for Builtin {
    fn wants_weights(&self) -> bool {
        true
    }

    fn sees(&self) -> bool {
        self.levels.is_some()
    }

    fn load(&mut self, version: u64, weights: Vec<u8>) -> Result<bool, String> {
        self.set_threads();
        if self.deterministic || weights.len() < BESIDE {
            return self.engine.load(version, &weights).map(|()| true).map_err(|e| e.to_string());
        }
        let (loader, (done, ready)) = (self.engine.loader(), channel());
        // Nobody listens any more where the stage has ended.
        let work = move || drop(done.send(loader.prepare(&weights).map_err(|e| e.to_string())));
        std::thread::Builder::new().name("weights".into()).spawn(work).map_err(|e| e.to_string())?;
        self.loading = Some((version, ready));
        Ok(false)
    }

    fn loaded(&mut self) -> Option<Result<(), String>> {
        let (version, ready) = self.loading.take()?;
        let prepared = match ready.try_recv() {
            Err(TryRecvError::Empty) => {
                self.loading = Some((version, ready));
                return None;
            }
            Err(TryRecvError::Disconnected) => Err("the thread that made it ready is gone".to_string()),
            Ok(prepared) => prepared,
        };
        let started = Instant::now();
        Some(prepared.map(|prepared| {
            self.engine.install(version, prepared);
            tracing::debug!(version, pause_s = started.elapsed().as_secs_f64(), "weights taken in");
        }))
    }

    fn drop_version(&mut self, version: u64) {
        self.engine.drop_version(version);
    }

    fn submit(&mut self, request: Request) -> Result<Option<Generated>, String> {
        let Request { ticket, rollout, tokens, pictures, version, sampling, stop_ids, .. } = request;
        let pictures = match &self.levels {
            Some(levels) => pictures.into_iter().map(|picture| shown(picture, levels)).collect(),
            None => vec![],
        };
        let stop = sampling.stop.iter().filter(|text| !text.is_empty()).cloned().collect::<Vec<_>>();
        let sampling = policy::SamplingParams::from(&sampling);
        let request = policy::Request { ticket, rollout, tokens, pictures, version, sampling, stop_ids, salt: 0 };
        self.engine.submit(request).map_err(|e| e.to_string())?;
        if !stop.is_empty() {
            self.stops.insert(ticket, stop);
        }
        Ok(None)
    }

    fn step(&mut self) -> Result<Vec<Generated>, String> {
        self.set_threads();
        let started = Instant::now();
        let mut done = self.engine.step().map_err(|e| e.to_string())?;
        done.extend(self.stopped());
        self.computing_s += started.elapsed().as_secs_f64();
        for reply in &done {
            self.stops.remove(&reply.ticket);
        }
        Ok(done.into_iter().map(given).collect())
    }

    fn has_work(&self) -> bool {
        self.engine.running() + self.engine.waiting() > 0
    }

    fn forget(&mut self, rollout: u64) {
        self.engine.forget(rollout);
    }

    fn load_now(&self) -> Load {
        Load {
            running: (self.engine.running() + self.engine.waiting()) as u64,
            kv_used_mib: self.engine.kv_use() * self.kv_cache_mib,
            computing_s: self.computing_s,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::Sampling;

    /// A pipeline with a policy of this shape, what its engine is made from, and weights.
    fn made(shape: &str) -> (Pipeline, Files, Vec<u8>) {
        let text = format!(
            "name = \"t\"\n[world]\nname = \"frozenlake\"\n[policy]\n{shape}\n[generator]\nthreads = 1\nkv_cache_mib = 32\n[[schedule]]\nphase = \"grpo\"\nbatch = 1\n"
        );
        let pipeline = Pipeline::parse(&text).unwrap();
        let (tokenizer, tokenizer_config) = context::train_small(&["P _ G".to_string()], &["Left".into(), "Right".into()], 300).unwrap();
        let context = context::Context::from_files(&tokenizer, &tokenizer_config, context::ImageSettings::default()).unwrap();
        let config = policy::ModelConfig::tiny(&pipeline.policy, context.tokenizer.vocab_size()).unwrap();
        let weights = policy::Trainer::new(config.clone(), 1, policy::TrainerOptions::default()).unwrap().weights();
        (pipeline, Files { context: Arc::new(context), config: config.to_json().into_bytes() }, weights)
    }

    #[test]
    fn it_samples_with_the_weights_it_was_given_and_never_a_banned_token() {
        let (pipeline, files, weights) = made("hidden = 16\nlayers = 1\nheads = 2\nkv_heads = 1\nintermediate = 32");
        let tokenizer = &files.context.tokenizer;
        let (stop, banned) = (tokenizer.stop_ids(), tokenizer.banned_ids(tokenizer.vocab_size()));
        let mut engine = Builtin::new(&pipeline, &files).unwrap();
        assert_eq!(engine.load(3, weights), Ok(true));
        assert!(engine.load(4, b"torn".to_vec()).is_err());
        let sampling = Sampling { max_tokens: 12, ..Sampling::default() };
        for ticket in 0..4 {
            let sampling = Sampling { seed: ticket, ..sampling.clone() };
            let (tokens, pictures, stop_ids) = (vec![1, 5, 6], vec![], stop.clone());
            let request = Request { ticket, rollout: ticket, group: 0, tokens, pictures, version: 3, sampling, stop_ids };
            assert_eq!(engine.submit(request), Ok(None));
        }
        let mut done = vec![];
        while engine.has_work() {
            done.extend(engine.step().unwrap());
        }
        assert_eq!(done.len(), 4);
        for reply in done {
            assert_eq!((reply.logprobs.len(), reply.versions), (reply.tokens.len(), vec![(3, reply.tokens.len() as u32)]));
            assert!(reply.tokens.iter().all(|id| !banned.contains(id)));
        }
    }

    #[test]
    fn large_weights_are_made_ready_beside_the_replies() {
        let (pipeline, files, weights) = made("hidden = 640\nlayers = 2\nheads = 4\nkv_heads = 1\nintermediate = 1024");
        assert!(weights.len() > BESIDE);
        let mut engine = Builtin::new(&pipeline, &files).unwrap();
        let wait = |engine: &mut Builtin| loop {
            if let Some(done) = engine.loaded() {
                break done;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        };
        let mut torn = weights.clone();
        torn.truncate(weights.len() - 8);
        assert_eq!(engine.load(1, torn), Ok(false));
        assert!(wait(&mut engine).is_err() && engine.engine.versions().is_empty());
        assert_eq!(engine.load(2, weights), Ok(false));
        assert_eq!((wait(&mut engine), engine.engine.versions()), (Ok(()), vec![2]));
        assert_eq!(engine.loaded(), None);
    }
}
