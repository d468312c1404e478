//! The program's entry: everything is in the library, so that tests reach it too.

fn main() -> std::process::ExitCode {
    holdfast::cli::main()
}
