//! The program `holdall`.

fn main() -> std::process::ExitCode {
    holdall::cli::main()
}
