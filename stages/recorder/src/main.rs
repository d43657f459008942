//! The recorder's program.

fn main() -> std::process::ExitCode {
    kit::main(recorder::NAME, |identity| {
        let sink = recorder::StoreSink::new(&identity);
        Ok(Box::new(recorder::Recorder::new(&identity, Box::new(sink))))
    })
}
