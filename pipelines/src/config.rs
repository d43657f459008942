//! Reads a pipeline file and checks every value. What is wrong is said in one line: file, key, what is allowed, a hint.

use anyhow::{Context, Result};
use schemas::pipeline::{Engine, Phase, Pipeline, VisionSettings};
use std::path::Path;

/// A pipeline and the text it came from: the text is what the run keeps.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) pipeline: Pipeline,
    pub(crate) text: String,
}

/// Reads and checks a pipeline file.
///
/// # Errors
/// One line for the first thing that is wrong.
pub(crate) fn load(path: &Path) -> Result<Loaded> {
    let shown = path.display();
    let text =
        std::fs::read_to_string(path).with_context(|| format!("`{shown}` cannot be read; hint: pipelines lie in pipelines/*.toml"))?;
    let pipeline = parse(&text).map_err(|line| anyhow::anyhow!("{shown}: {line}"))?;
    Ok(Loaded { pipeline, text })
}

/// Parses and checks a pipeline's text; the error is one line.
pub(crate) fn parse(text: &str) -> Result<Pipeline, String> {
    let pipeline = Pipeline::parse(text).map_err(|error| explain(text, &error))?;
    match problems(&pipeline).first() {
        None => Ok(pipeline),
        Some(problem) => Err(problem.to_string()),
    }
}

/// Makes one line of toml's error: line number, what it says, and the nearest name where one is unknown.
fn explain(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let message = error.message();
    let mut names = message.split('`').skip(1).step_by(2);
    let hint = match (message.starts_with("unknown"), names.next()) {
        (true, Some(unknown)) => names
            .min_by_key(|known| strsim::damerau_levenshtein(unknown, known))
            .map_or_else(String::new, |nearest| format!("; hint: the nearest name is `{nearest}`")),
        _ => String::new(),
    };
    format!("line {line}: {}{hint}", message.replace('\n', " "))
}

/// A value out of range.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Problem {
    key: &'static str,
    found: String,
    allowed: String,
    hint: &'static str,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` is {}; allowed: {}", self.key, self.found, self.allowed)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "; hint: {}", self.hint) }
    }
}

struct Checks(Vec<Problem>);

impl Checks {
    fn require(&mut self, holds: bool, key: &'static str, found: impl std::fmt::Display, allowed: impl Into<String>, hint: &'static str) {
        if !holds {
            self.0.push(Problem { key, found: found.to_string(), allowed: allowed.into(), hint });
        }
    }

    fn range<T: PartialOrd + std::fmt::Display + Copy>(&mut self, key: &'static str, found: T, low: T, high: T) {
        self.require(found >= low && found <= high, key, found, format!("{low} to {high}"), "");
    }
}

/// Everything that is out of range, in the order of the file.
pub(crate) fn problems(p: &Pipeline) -> Vec<Problem> {
    let mut checks = Checks(Vec::new());
    names_and_episodes(p, &mut checks);
    prompt_and_limits(p, &mut checks);
    rewards(p, &mut checks);
    model(p, &mut checks);
    schedule(p, &mut checks);
    processes(p, &mut checks);
    checks.0
}

fn names_and_episodes(p: &Pipeline, c: &mut Checks) {
    let plain = !p.name.is_empty() && p.name.chars().all(|ch| ch.is_ascii_alphanumeric() || ch == '-');
    c.require(plain, "name", format!("`{}`", p.name), "letters, digits and dashes", "it becomes part of NATS subjects");
    c.range("episodes.group_size", p.episodes.group_size, 2, 64);
    c.range("episodes.group_size_hard", p.episodes.group_size_hard, p.episodes.group_size, 64);
    c.range("episodes.validation", p.episodes.validation, 1, 1_000_000);
    c.range("episodes.generated_houses", p.episodes.generated_houses, 1, 10_000_000);
}

fn prompt_and_limits(p: &Pipeline, c: &mut Checks) {
    let (prompt, limits) = (&p.prompt, &p.limits);
    c.range("prompt.actions_per_turn", prompt.actions_per_turn, 1, 64);
    c.require(!prompt.action_separator.is_empty(), "prompt.action_separator", "empty", "at least one character", "");
    c.range("prompt.observation_tokens", prompt.observation_tokens, 4, 1 << 20);
    c.range("prompt.segment_turns", prompt.segment_turns, 1, 10_000);
    c.range("prompt.segment_images", prompt.segment_images, 1, 10_000);
    c.range("limits.reply_tokens", limits.reply_tokens, 1, 1 << 16);
    c.range("limits.steps", limits.steps, 1, 1_000_000);
    c.range("limits.turns", limits.turns, 1, 1_000_000);
    c.require(limits.turn_deadline_s > 0.0, "limits.turn_deadline_s", limits.turn_deadline_s, "more than 0 seconds", "");
    let turn = prompt.observation_tokens + limits.reply_tokens;
    c.require(
        prompt.segment_tokens >= 2 * turn,
        "prompt.segment_tokens",
        prompt.segment_tokens,
        format!("at least {} (two turns of observation_tokens + reply_tokens)", 2 * turn),
        "a segment must hold an earlier turn beside the live one",
    );
    c.require(
        limits.episode_tokens >= turn,
        "limits.episode_tokens",
        limits.episode_tokens,
        format!("at least {turn} (one turn of observation_tokens + reply_tokens)"),
        "an episode must hold a turn",
    );
}

fn rewards(p: &Pipeline, c: &mut Checks) {
    let r = &p.rewards;
    c.require(r.format >= 0.0 && r.format.is_finite(), "rewards.format", r.format, "0 or more", "");
    c.require(r.progress >= 0.0 && r.progress.is_finite(), "rewards.progress", r.progress, "0 or more", "");
    c.require(r.step_penalty >= 0.0 && r.step_penalty.is_finite(), "rewards.step_penalty", r.step_penalty, "0 or more", "");
    c.require(r.success > 0.0 && r.success.is_finite(), "rewards.success", r.success, "more than 0", "");
}

fn model(p: &Pipeline, c: &mut Checks) {
    let gpu = p.policy.device == schemas::pipeline::Device::Cuda;
    let allowed = "\"auto\" or \"cpu\" where deterministic = true";
    c.require(!(gpu && p.deterministic), "policy.device", "cuda", allowed, "a GPU adds up in any order");
    if let Some(lora) = &p.policy.lora {
        c.range("policy.lora.rank", lora.rank, 1, 4096);
        c.require(lora.alpha > 0.0, "policy.lora.alpha", lora.alpha, "more than 0", "");
        let none = lora.modules.is_empty() && lora.vision_modules.is_empty();
        c.require(!none, "policy.lora.modules", "empty", "at least one module, as \"q_proj\"", "");
    }
    if p.generator.sync == schemas::pipeline::WeightSync::Lora {
        let hint = "[policy.lora] trains an adapter on policy.folder, which vllm's servers serve";
        let fits = p.generator.engine == Engine::Vllm && p.policy.lora.is_some() && !p.policy.folder.is_empty();
        c.require(fits, "generator.sync", "lora", "\"reload\" without generator.engine = \"vllm\", policy.folder and policy.lora", hint);
    }
    let m = &p.policy;
    if m.folder.is_empty() && p.generator.engine == Engine::Builtin {
        c.range("policy.hidden", m.hidden, 16, 16_384);
        c.range("policy.layers", m.layers, 1, 256);
        c.range("policy.heads", m.heads, 1, 256);
        c.range("policy.vocabulary", m.vocabulary, 300, 1 << 20);
        let whole = m.heads > 0 && m.hidden.is_multiple_of(m.heads) && (m.hidden / m.heads).is_multiple_of(2);
        c.require(whole, "policy.heads", m.heads, format!("a divisor of hidden ({}) that leaves an even head size", m.hidden), "");
        let grouped = m.kv_heads > 0 && m.heads.is_multiple_of(m.kv_heads.max(1));
        c.require(grouped, "policy.kv_heads", m.kv_heads, format!("a divisor of heads ({})", m.heads), "");
        if let Some(vision) = &m.vision {
            eyes(p, vision, c);
        }
    }
    let s = &p.sampling;
    let trains = p.schedule.iter().any(|phase| matches!(phase.phase, Phase::Grpo | Phase::Dagger));
    if trains {
        let hint = "the learner's log-probabilities must be of the distribution that was sampled; evaluation may use it";
        c.require(s.temperature > 0.0, "sampling.temperature", s.temperature, "more than 0 where episodes are trained on", hint);
        c.require(s.top_p == 1.0, "sampling.top_p", s.top_p, "1 where episodes are trained on", hint);
        c.require(s.top_k == 0, "sampling.top_k", s.top_k, "0 where episodes are trained on", hint);
        c.require(s.min_p == 0.0, "sampling.min_p", s.min_p, "0 where episodes are trained on", hint);
    }
    c.require(s.validation_temperature >= 0.0, "sampling.validation_temperature", s.validation_temperature, "0 or more", "");
    c.range("generator.max_num_seqs", p.generator.max_num_seqs, 1, 4096);
    c.range("generator.versions_held", p.generator.versions_held, 2, 64);
    c.range("generator.kv_cache_mib", p.generator.kv_cache_mib, 1, 1 << 20);
    c.range("generator.threads", p.generator.threads, 1, 1024);
    c.range("learner.threads", p.learner.threads, 1, 1024);
    c.range("learner.checkpoint_every", p.learner.checkpoint_every, 1, 1_000_000);
    c.range("learner.max_staleness", p.learner.max_staleness, 0, 64);
    let longest = p.prompt.segment_tokens;
    c.require(
        p.generator.max_num_batched_tokens >= 1 && p.learner.microbatch_tokens >= longest,
        "learner.microbatch_tokens",
        p.learner.microbatch_tokens,
        format!("at least prompt.segment_tokens ({longest})"),
        "a segment is trained in one piece",
    );
}

fn eyes(p: &Pipeline, v: &VisionSettings, c: &mut Checks) {
    c.range("policy.vision.hidden", v.hidden, 16, 16_384);
    c.range("policy.vision.layers", v.layers, 1, 256);
    c.range("policy.vision.heads", v.heads, 1, 256);
    c.range("policy.vision.intermediate", v.intermediate, 1, 1 << 16);
    c.range("policy.vision.patch", v.patch, 2, 64);
    c.range("policy.vision.merge", v.merge, 1, 8);
    let fours = v.heads > 0 && v.hidden.is_multiple_of(v.heads) && (v.hidden / v.heads).is_multiple_of(4);
    c.require(
        fours,
        "policy.vision.heads",
        v.heads,
        format!("a divisor of hidden ({}) that leaves a head size of a multiple of 4", v.hidden),
        "",
    );
    let token = v.patch * v.merge;
    c.require(v.window >= token, "policy.vision.window", v.window, format!("at least one token's side, {token}"), "");
    let area = u64::from(token).pow(2);
    let pixels = v.min_pixels <= v.max_pixels && v.max_pixels >= area && v.max_pixels <= 1 << 30;
    let allowed = format!("at least min_pixels ({}) and one token's area ({area}), at most {}", v.min_pixels, 1u32 << 30);
    c.require(pixels, "policy.vision.max_pixels", v.max_pixels, allowed, "");
    let head = p.policy.hidden.checked_div(p.policy.heads).unwrap_or(0);
    let hint = "positions have three axes, each with a pair of its own";
    c.require(head >= 6, "policy.heads", p.policy.heads, "a head size of at least 6 with eyes", hint);
    let shows = p.world.pictures;
    c.require(shows, "world.pictures", shows, "true where the policy has eyes", "without pictures leave [policy.vision] out");
}

fn schedule(p: &Pipeline, c: &mut Checks) {
    c.require(!p.schedule.is_empty(), "schedule", "empty", "at least one [[schedule]] entry", "");
    let mut acted = false;
    for phase in &p.schedule {
        let bounded = phase.minutes > 0.0 || phase.batches > 0 || phase.patience > 0;
        c.require(bounded, "schedule.minutes", phase.minutes, "minutes, batches or patience above 0 in each phase", "a phase must end");
        c.range("schedule.batch", phase.batch, 1, 1 << 20);
        c.range("schedule.epochs", phase.epochs, 1, 64);
        c.require(
            phase.learning_rate > 0.0 && phase.learning_rate < 1.0,
            "schedule.learning_rate",
            phase.learning_rate,
            "between 0 and 1",
            "",
        );
        if p.deterministic {
            let hint = "the clock decides nothing in a deterministic run";
            c.require(phase.minutes == 0.0, "schedule.minutes", phase.minutes, "0 where deterministic = true", hint);
        }
        let imitates = matches!(phase.phase, Phase::Imitation | Phase::Format);
        let name = phase.phase.as_str();
        let order = "the order is imitation or format, then dagger, then grpo";
        c.require(
            !(imitates && acted),
            "schedule.phase",
            format!("`{name}` after a phase in which the policy acts"),
            "imitation and format first",
            order,
        );
        acted |= !imitates;
    }
    let after_grpo = p.schedule.iter().skip_while(|s| s.phase != Phase::Grpo).any(|s| s.phase == Phase::Dagger);
    c.require(!after_grpo, "schedule.phase", "`dagger` after `grpo`", "dagger before grpo", "training groups are granted in that order");
}

fn processes(p: &Pipeline, c: &mut Checks) {
    if p.is_offline_only() {
        let hint = "without steppers nothing can be judged; `errand eval` judges a checkpoint";
        c.require(!p.learner.validate, "learner.validate", p.learner.validate, "false where stages.env_steppers = 0", hint);
        let dagger = p.schedule.iter().any(|phase| phase.phase == Phase::Dagger);
        c.require(
            !dagger,
            "schedule.phase",
            "`dagger`",
            "imitation, format and grpo where stages.env_steppers = 0",
            "labels need an expert",
        );
    }
    c.range("stages.env_steppers", p.stages.env_steppers, 0, 10_000);
    c.range("stages.slots", p.stages.slots, 1, 65_536);
    c.range("stages.prompt_renderers", p.stages.prompt_renderers, 0, 10_000);
    c.range("stages.generators", p.stages.generators, 0, 10_000);
    c.require(p.stages.recorders >= 1, "stages.recorders", p.stages.recorders, "1 or more", "an end without a sink would be lost");
    c.require(p.broker.ack_wait_s >= 1.0, "broker.ack_wait_s", p.broker.ack_wait_s, "1 second or more", "");
    c.require(p.broker.lease_s >= 1.0, "broker.lease_s", p.broker.lease_s, "1 second or more", "");
    c.require(p.broker.wait_s >= 1.0, "broker.wait_s", p.broker.wait_s, "1 second or more", "");
    c.range("broker.stream_mib", p.broker.stream_mib, 16, 1 << 20);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "name = \"a\"\n[world]\nname = \"frozenlake\"\n[[schedule]]\nphase = \"grpo\"\nbatches = 1\nbatch = 1\n";

    #[test]
    fn the_least_file_is_valid() {
        parse(LEAST).expect("defaults fill the rest");
    }

    #[test]
    fn an_unknown_key_names_line_and_nearest_name() {
        let text = LEAST.replace("[[schedule]]", "[limits]\nstep = 3\n[[schedule]]");
        let error = parse(&text).expect_err("`step` is no key");
        assert!(error.contains("line 5") && error.contains("nearest name is `steps`"), "{error}");
    }

    #[test]
    fn filters_are_refused_where_episodes_are_trained_on() {
        let error = parse(&format!("{LEAST}[sampling]\ntop_p = 0.9\n")).expect_err("top_p bends the distribution");
        assert!(error.contains("`sampling.top_p` is 0.9; allowed: 1"), "{error}");
    }

    #[test]
    fn deterministic_runs_do_not_go_by_the_clock() {
        let text = format!("deterministic = true\n{LEAST}").replace("batches = 1\n", "minutes = 1.0\n");
        assert!(parse(&text).expect_err("clock").contains("schedule.minutes"));
    }

    #[test]
    fn eyes_need_pictures() {
        let blind = format!("{LEAST}[policy.vision]\nhidden = 32\n");
        assert!(parse(&blind).expect_err("no pictures").contains("`world.pictures` is false"));
        let seeing = blind.replace("name = \"frozenlake\"", "name = \"frozenlake\"\npictures = true");
        parse(&seeing).expect("with pictures there is something to see");
        let odd = seeing.replace("hidden = 32", "hidden = 36\nheads = 4\nmax_pixels = 10");
        assert!(parse(&odd).expect_err("9 is no head").contains("`policy.vision.heads` is 4"));
    }

    #[test]
    fn devices_and_adapters_are_checked() {
        let gpu = format!("deterministic = true\n{LEAST}[policy]\ndevice = \"cuda\"\n");
        assert!(parse(&gpu).expect_err("sums in any order").contains("`policy.device` is cuda"));
        let lora = |text: &str| parse(&format!("{LEAST}[policy.lora]\n{text}\n"));
        lora("rank = 8").expect("the rest has defaults");
        assert!(lora("rank = 0").expect_err("no rank").contains("policy.lora.rank"));
        assert!(lora("modules = []").expect_err("nothing to train").contains("policy.lora.modules"));
    }

    #[test]
    fn a_segment_holds_two_turns() {
        let error = parse(&format!("{LEAST}[prompt]\nsegment_tokens = 100\nobservation_tokens = 90\n")).expect_err("too small");
        assert!(error.contains("prompt.segment_tokens"), "{error}");
    }
}
