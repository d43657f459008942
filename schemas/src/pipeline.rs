//! The pipeline file: every setting of a run, with its default, its unit and its range.
//!
//! `errand init` puts the file's text into the run's key-value bucket, so that a stage on another host needs only the
//! NATS URL and the run's name.

use crate::{End, Split};
use serde::{Deserialize, Serialize};

/// A whole pipeline file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// What people call it; letters, digits and dashes.
    pub name: String,
    /// All worlds and all sampling follow from it.
    #[serde(default = "one")]
    pub seed: u64,
    /// Same weights, bit for bit, whatever the number of steppers and crashes. CPU and synchronous only; slower.
    #[serde(default)]
    pub deterministic: bool,
    pub world: WorldConfig,
    #[serde(default)]
    pub episodes: EpisodesConfig,
    #[serde(default)]
    pub prompt: PromptConfig,
    #[serde(default)]
    pub limits: LimitsConfig,
    #[serde(default)]
    pub rewards: RewardsConfig,
    #[serde(default)]
    pub policy: PolicyConfig,
    #[serde(default)]
    pub sampling: SamplingConfig,
    #[serde(default)]
    pub generator: GeneratorConfig,
    #[serde(default)]
    pub learner: LearnerConfig,
    /// What the learner does, in this order.
    pub schedule: Vec<PhaseConfig>,
    #[serde(default)]
    pub record: RecordConfig,
    /// Recorded trajectories that are learned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline: Option<OfflineConfig>,
    #[serde(default)]
    pub stages: StagesConfig,
    #[serde(default)]
    pub broker: BrokerConfig,
}

fn one() -> u64 {
    1
}

/// Which world is stepped, and its own settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldConfig {
    /// `frozenlake`, `sokoban`, `fetch`.
    pub name: String,
    /// Pictures beside the text.
    #[serde(default)]
    pub pictures: bool,
    /// The agent sees nothing: pictures are black and observations tell of no object. For `errand eval --policy blind`.
    #[serde(default)]
    pub blind: bool,
    /// The world's own settings; the world checks them.
    #[serde(default)]
    pub settings: toml::Table,
}

/// Which episodes are run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EpisodesConfig {
    /// Houses to train in: a path or URL of ProcTHOR houses (`.json`, `.jsonl`, `.gz`). Empty: the built-in generator.
    pub houses: String,
    /// How many distinct training houses the generator makes.
    pub generated_houses: u64,
    /// A frozen episode file to validate on. Empty: levels of the held-out seeds.
    pub validation_file: String,
    /// How many held-out episodes a validation pass runs.
    pub validation: u64,
    /// Episodes a GRPO group has.
    pub group_size: u32,
    /// Episodes a group has while its bucket's success is under 0.15.
    pub group_size_hard: u32,
    /// Sample buckets so that recent success stays between 0.2 and 0.8.
    pub curriculum: bool,
}

impl Default for EpisodesConfig {
    fn default() -> Self {
        EpisodesConfig {
            houses: String::new(),
            generated_houses: 512,
            validation_file: String::new(),
            validation: 200,
            group_size: 8,
            group_size_hard: 16,
            curriculum: true,
        }
    }
}

/// How a turn is put into words and a reply is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Actions and nothing else.
    Actions,
    FreeThink,
    NoThink,
    Grounding,
    Worldmodeling,
    GroundingWorldmodeling,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PromptConfig {
    pub format: Format,
    /// Take actions only from strictly well-formed replies.
    pub strict: bool,
    /// 1 to K actions a reply; the others are dropped.
    pub actions_per_turn: u32,
    /// What stands between two actions. A space for policies trained from nothing.
    pub action_separator: String,
    /// Longest observation in tokens, template included. The renderer refuses a longer one.
    pub observation_tokens: u32,
    /// A segment's bounds. Where the next turn would pass one, another segment is opened at half of it.
    pub segment_tokens: u32,
    pub segment_turns: u32,
    pub segment_images: u32,
    /// Longest memory line in characters; 0 turns it off.
    pub memory_chars: u32,
    /// Say the rules and the format in a system prompt. Off for policies trained from nothing.
    pub system: bool,
}

impl Default for PromptConfig {
    fn default() -> Self {
        PromptConfig {
            format: Format::Actions,
            strict: true,
            actions_per_turn: 5,
            action_separator: " ".into(),
            observation_tokens: 96,
            segment_tokens: 1024,
            segment_turns: 24,
            segment_images: 24,
            memory_chars: 0,
            system: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Primitive actions an episode may take.
    pub steps: u32,
    /// Replies an episode may take.
    pub turns: u32,
    /// Tokens a reply may take.
    pub reply_tokens: u32,
    /// Tokens an episode may take over all its turns, observations included.
    pub episode_tokens: u32,
    /// A rollout that has not moved for this long is given back.
    pub turn_deadline_s: f64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        LimitsConfig { steps: 600, turns: 120, reply_tokens: 16, episode_tokens: 100_000, turn_deadline_s: 60.0 }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RewardsConfig {
    /// Paid an episode: this, times the share of well-formed turns.
    pub format: f32,
    /// VAGEN's rule: paid every well-formed turn instead. Allowed only where the worst success still out-scores the best failure.
    pub format_per_turn: bool,
    /// Paid on strict success, in worlds that leave it open (the household).
    pub success: f32,
    /// Paid for the share of milestones reached by a failed episode. Kept under `success - format`.
    pub progress: f32,
    /// Subtracted for each primitive action.
    pub step_penalty: f32,
}

impl Default for RewardsConfig {
    fn default() -> Self {
        RewardsConfig { format: 0.5, format_per_turn: false, success: 10.0, progress: 0.0, step_penalty: 0.0 }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyConfig {
    /// A Hugging Face folder to start from. Empty: a new policy of the shape below.
    pub folder: String,
    /// A folder that holds only tokenizer.json and tokenizer_config.json, for pipelines without a model. Empty: the policy's own.
    pub tokenizer: String,
    pub hidden: u32,
    pub layers: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub intermediate: u32,
    /// Entries of the byte-level BPE vocabulary, special tokens and action tokens included.
    pub vocabulary: u32,
    /// Eyes of a new policy, which is then of Qwen2.5-VL's shape; without them it reads text only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vision: Option<VisionSettings>,
    /// Where learner and generator compute.
    pub device: Device,
    /// What weights are computed in.
    pub dtype: Dtype,
    /// Train an adapter of PEFT's instead of the weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraSettings>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// A GPU where there is one and the run is not deterministic, else the CPU.
    #[default]
    Auto,
    Cpu,
    Cuda,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// bfloat16 on a GPU for a policy whose config.json says so, else float32.
    #[default]
    Auto,
    Float32,
    /// On a GPU only.
    Bfloat16,
}

/// A LoRA adapter (Hu et al. 2021): `W + alpha / rank * B A`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraSettings {
    pub rank: u32,
    pub alpha: f32,
    /// Last parts of the names of the decoder's matrices.
    pub modules: Vec<String>,
    /// The same of the vision tower's, as `attn.qkv`, or of a projector's, as `linear_1`.
    pub vision_modules: Vec<String>,
}

impl Default for LoraSettings {
    fn default() -> Self {
        let modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
        LoraSettings { rank: 16, alpha: 32.0, modules: modules.map(String::from).to_vec(), vision_modules: vec![] }
    }
}

/// The vision tower of a new policy, and how pictures are cut for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VisionSettings {
    pub hidden: u32,
    /// Blocks; the last one looks over the whole picture, those before it over windows.
    pub layers: u32,
    pub heads: u32,
    pub intermediate: u32,
    /// Side of a patch, pixels.
    pub patch: u32,
    /// Patches merged into one token, along each side.
    pub merge: u32,
    /// Side of a window of attention, pixels.
    pub window: u32,
    /// Least and greatest area of a picture after resizing, pixels. Each token takes `(patch * merge)²` of them.
    pub min_pixels: u64,
    pub max_pixels: u64,
}

impl Default for VisionSettings {
    fn default() -> Self {
        VisionSettings {
            hidden: 64,
            layers: 2,
            heads: 4,
            intermediate: 128,
            patch: 14,
            merge: 2,
            window: 112,
            min_pixels: 3136,
            max_pixels: 100_352,
        }
    }
}

impl Default for PolicyConfig {
    fn default() -> Self {
        PolicyConfig {
            folder: String::new(),
            tokenizer: String::new(),
            hidden: 128,
            layers: 4,
            heads: 4,
            kv_heads: 2,
            intermediate: 384,
            vocabulary: 1024,
            vision: None,
            device: Device::Auto,
            dtype: Dtype::Auto,
            lora: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingConfig {
    /// In training. 0 is greedy and refused there.
    pub temperature: f32,
    /// In validation; 0 is greedy.
    pub validation_temperature: f32,
    pub top_p: f32,
    pub top_k: u32,
    pub min_p: f32,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        SamplingConfig { temperature: 1.0, validation_temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// The policy, in this process.
    Builtin,
    /// Seeded random well-formed replies, no weights: for benchmarks and tests of everything else.
    Scripted,
    /// Servers that speak vLLM's HTTP interface, at `urls`.
    Vllm,
    /// A server that speaks OpenAI's chat completions, at `urls`, with weights of its own: for evaluation.
    Chat,
}

/// How new weights get to servers of vLLM's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightSync {
    /// A whole model a version, read anew in place of the one before.
    #[default]
    Reload,
    /// An adapter a version, under a name of its own, beside a base that stays: for a policy with `policy.lora`.
    Lora,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GeneratorConfig {
    pub engine: Engine,
    /// Sequences decoded at once.
    pub max_num_seqs: u32,
    /// Tokens computed in one forward pass.
    pub max_num_batched_tokens: u32,
    /// Prompts that may wait; more are answered `busy`.
    pub queue: u32,
    /// Memory for keys and values, MiB.
    pub kv_cache_mib: u32,
    /// Versions of the weights kept ready.
    pub versions_held: u32,
    /// Keep a rollout's keys and values when new weights arrive (`true`), or compute them again.
    pub keep_kv_across_versions: bool,
    pub threads: u32,
    /// `http://host:port` or `https://...` of each server, where the engine is `vllm` or `chat`.
    pub urls: Vec<String>,
    /// The name under which a `chat` server serves the model that is asked; without it, the only one that it has.
    pub model: String,
    /// The environment variable that holds those servers' API key. Where it is not set no key is sent. The key itself is in no
    /// file of a run.
    pub api_key_env: String,
    /// How new weights get to servers of vLLM's.
    pub sync: WeightSync,
    /// A folder that this process writes and those servers read, under the same path: new weights go through it.
    pub weights_folder: String,
}

impl Default for GeneratorConfig {
    fn default() -> Self {
        GeneratorConfig {
            engine: Engine::Builtin,
            max_num_seqs: 64,
            max_num_batched_tokens: 4096,
            queue: 256,
            kv_cache_mib: 512,
            versions_held: 2,
            keep_kv_across_versions: true,
            threads: 2,
            urls: vec![],
            model: String::new(),
            api_key_env: "OPENAI_API_KEY".into(),
            sync: WeightSync::Reload,
            weights_folder: "runs/weights".into(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LearnerConfig {
    /// 0 is synchronous. Counted in batches.
    pub max_staleness: u32,
    /// Tokens a forward and backward pass takes at once.
    pub microbatch_tokens: u32,
    /// Keep each layer's input alone and compute the layer again on the way back: much less memory for a third more work.
    pub recompute: bool,
    pub weight_decay: f32,
    /// Largest norm of the gradient.
    pub clip_norm: f32,
    pub threads: u32,
    /// Save a checkpoint every so many batches.
    pub checkpoint_every: u32,
    /// Check and account for every end but take no step, and grant without limit: for benchmarks.
    pub idle: bool,
    /// Validate the first and the last version.
    pub validate: bool,
    /// Validate what each phase before the last one came to as well.
    pub validate_phases: bool,
    /// Say so when no group differed in task reward for this many batches.
    pub no_signal_batches: u32,
}

impl Default for LearnerConfig {
    fn default() -> Self {
        LearnerConfig {
            max_staleness: 1,
            microbatch_tokens: 8192,
            recompute: false,
            weight_decay: 0.01,
            clip_norm: 1.0,
            threads: 2,
            checkpoint_every: 1,
            idle: false,
            validate: true,
            validate_phases: false,
            no_signal_batches: 10,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Imitates the expert's episodes.
    Imitation,
    /// Imitates well-formed replies with random actions.
    Format,
    /// The policy acts, the expert labels.
    Dagger,
    /// Group-relative policy optimisation on the policy's own tokens.
    Grpo,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Imitation => "imitation",
            Phase::Format => "format",
            Phase::Dagger => "dagger",
            Phase::Grpo => "grpo",
        }
    }
}

/// Over what the policy loss is averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    /// Each episode weighs the same, as in GRPO (Shao et al. 2024). Failures are longer than successes where episodes have
    /// many turns: were each token to weigh the same, most of the loss would push away from whatever failures say.
    #[default]
    Episode,
    /// Each token weighs the same, as in DAPO (Yu et al. 2025).
    Token,
}

/// One part of the schedule. It ends at the first of its limits that is reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseConfig {
    pub phase: Phase,
    /// Minutes by the clock; 0 sets no limit. Refused in deterministic runs.
    #[serde(default)]
    pub minutes: f64,
    /// Batches; 0 sets no limit.
    #[serde(default)]
    pub batches: u64,
    /// Stop when the held-out loss has not improved for this many batches; 0 sets no limit. Imitation only.
    #[serde(default)]
    pub patience: u64,
    /// Episodes a batch in the imitation phases; groups a batch in the others.
    pub batch: u32,
    /// Passes over each batch (imitation: over a window of recent episodes).
    #[serde(default = "default_epochs")]
    pub epochs: u32,
    #[serde(default = "default_learning_rate")]
    pub learning_rate: f64,
    /// PPO's clip range, below and above 1.
    #[serde(default = "default_clip")]
    pub clip: [f32; 2],
    /// Weight of the entropy bonus.
    #[serde(default)]
    pub entropy: f32,
    /// Weight of the KL penalty against the policy at the phase's start.
    #[serde(default)]
    pub kl: f32,
    #[serde(default)]
    pub aggregate: Aggregate,
    /// Divide a group's advantages by their standard deviation.
    #[serde(default = "yes")]
    pub normalize: bool,
}

fn default_epochs() -> u32 {
    1
}

fn default_learning_rate() -> f64 {
    1e-3
}

fn default_clip() -> [f32; 2] {
    [0.2, 0.28]
}

fn yes() -> bool {
    true
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pictures {
    /// Those of every episode.
    All,
    /// Only those of validation episodes.
    Eval,
    None,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordConfig {
    /// An object_store URL, or a path. Empty: `runs/<run>/trajectories`.
    pub url: String,
    pub pictures: Pictures,
    /// Commit the manifest at least this often.
    pub commit_s: f64,
    /// Commit when this many episodes wait.
    pub commit_episodes: u32,
}

impl Default for RecordConfig {
    fn default() -> Self {
        RecordConfig { url: String::new(), pictures: Pictures::All, commit_s: 2.0, commit_episodes: 2000 }
    }
}

/// Where expert episodes come from, in place of the expert; without steppers also the policy's groups.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OfflineConfig {
    /// A path or URL of a trajectory store. Empty: the folder `dataset` among the run's own files.
    pub url: String,
    /// Whose trajectories: the name of a run in it. Empty: the pipeline's.
    pub run: String,
    /// Where the store holds fewer expert episodes than this, they are recorded first, by this pipeline's expert.
    pub experts: u64,
    /// Only successes are imitated.
    pub success: bool,
    /// Imitate the policy's own episodes as well, where they are successes.
    pub policy: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StagesConfig {
    pub env_steppers: u32,
    /// Rollouts a stepper runs side by side.
    pub slots: u32,
    pub prompt_renderers: u32,
    pub generators: u32,
    pub recorders: u32,
}

impl Default for StagesConfig {
    fn default() -> Self {
        StagesConfig { env_steppers: 1, slots: 64, prompt_renderers: 1, generators: 1, recorders: 1 }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerConfig {
    /// A stage without NATS for this long ends with exit code 1.
    pub wait_s: f64,
    /// An episode whose stepper shows no progress for this long is run again.
    pub ack_wait_s: f64,
    /// Bound of each stream, MiB. A full stream is back-pressure.
    pub stream_mib: u32,
    /// A lease not renewed for this long is free for another holder.
    pub lease_s: f64,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        BrokerConfig { wait_s: 60.0, ack_wait_s: 10.0, stream_mib: 1024, lease_s: 5.0 }
    }
}

impl Pipeline {
    /// Whether published versions are adapters, to be merged or loaded where they are served; else they are whole policies.
    pub fn publishes_adapters(&self) -> bool {
        let merged = self.generator.engine == Engine::Builtin;
        let loaded = self.generator.engine == Engine::Vllm && self.generator.sync == WeightSync::Lora;
        self.policy.lora.is_some() && (merged || loaded)
    }

    /// Reads a pipeline file's text.
    ///
    /// # Errors
    /// toml's own message, which names line, key and what is allowed.
    pub fn parse(text: &str) -> Result<Pipeline, toml::de::Error> {
        toml::from_str(text)
    }

    /// Whether everything is learned from recorded trajectories: there are no steppers.
    pub fn is_offline_only(&self) -> bool {
        self.offline.is_some() && self.stages.env_steppers == 0
    }

    /// Whether the store keeps an episode's pictures.
    pub fn records_pictures(&self, split: Split) -> bool {
        match self.record.pictures {
            Pictures::All => true,
            Pictures::Eval => split == Split::Val,
            Pictures::None => false,
        }
    }

    /// Whether an episode's end brings its pictures: for the store, or for a learner whose policy may look at them. Validation is
    /// not learned from.
    pub fn brings_pictures(&self, split: Split) -> bool {
        let may_look = self.policy.vision.is_some() || !self.policy.folder.is_empty();
        self.records_pictures(split) || (may_look && self.world.pictures && !self.learner.idle && split != Split::Val)
    }

    /// Takes from an end the pictures that the store does not keep. Their digests stay, and they can be rendered again.
    pub fn strip_pictures(&self, end: &mut End) {
        if !self.records_pictures(end.episode.id.split) {
            end.frames = vec![];
        }
    }

    /// `max_staleness` as it is in force.
    pub fn max_staleness(&self) -> u32 {
        if self.deterministic { 0 } else { self.learner.max_staleness }
    }
}
