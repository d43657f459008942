//! The prompt-renderer's program.

fn main() -> std::process::ExitCode {
    kit::main(prompt_renderer::NAME, |identity| Ok(Box::new(prompt_renderer::Renderer::new(identity))))
}
