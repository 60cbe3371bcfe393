//! The folders of what is kept from one start to the next.

use std::path::PathBuf;

use clap::Args;

/// What is kept from one start to the next.
#[derive(Args, Debug)]
pub struct CacheOptions {
    /// Where compiled guests, and components made of Python files, are kept; tools are then
    /// installed in DIR/tools. Nobody else may be able to write there [default:
    /// $XDG_CACHE_HOME/wasm-serve/compiled, and tools beside it; without that variable,
    /// ~/.cache/wasm-serve/compiled].
    #[arg(long, value_name = "DIR", help_heading = "What to serve")]
    pub cache: Option<PathBuf>,
}

impl CacheOptions {
    /// None if the user has no such folder.
    pub fn folder(&self) -> Option<PathBuf> {
        self.named().or_else(|| user_cache().map(|folder| folder.join("compiled")))
    }

    /// Where the tools are that make guests.
    pub fn tools(&self) -> Option<PathBuf> {
        let of_cache = || self.named().or_else(user_cache).map(|folder| folder.join("tools"));
        absolute(TOOLS_VARIABLE).or_else(of_cache)
    }

    /// The one that the command line names, or the server that runs this program in a script.
    fn named(&self) -> Option<PathBuf> {
        let on_command_line = self.cache.as_ref().and_then(|folder| std::path::absolute(folder).ok());
        on_command_line.or_else(|| absolute(CACHE_VARIABLE))
    }

    /// What a project's script is told, so that what it runs uses the same folders.
    pub fn variables(&self) -> Vec<(&'static str, PathBuf)> {
        let Some(cache) = self.named() else { return Vec::new() };
        let tools = self.tools().map(|tools| (TOOLS_VARIABLE, tools));
        [(CACHE_VARIABLE, cache)].into_iter().chain(tools).collect()
    }
}

/// They are for scripts, and say what --cache says.
const CACHE_VARIABLE: &str = "WASM_SERVE_CACHE";
const TOOLS_VARIABLE: &str = "WASM_SERVE_TOOLS";

/// The path in a variable, if it is one that leads to the same place from everywhere.
fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Our part of where the user's programs keep what they can make again.
pub(super) fn user_cache() -> Option<PathBuf> {
    let of_user = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    of_user.map(|folder| folder.join("wasm-serve"))
}
