//! `steerctl import keepalived`: a keepalived.conf becomes a steerd.toml.
//!
//! * [`files`] and [`lines`] read the configuration with all it includes and defines;
//! * [`mod@words`] and [`mod@tree`] make statements of the lines, each with its place;
//! * [`mod@translate`] makes typed parts of a steerd.toml of those, [`text`] writes them in [`toml`]'s
//!   words;
//! * [`account`] sees to it that every statement is translated or left as a comment, with what
//!   [`hints`] knows of it.
//!
//! Nothing here needs a daemon or rights, and no input makes it panic or grow without bound.

mod account;
mod error;
mod files;
mod hints;
mod keys;
mod lines;
mod steer;
mod text;
mod toml;
mod translate;
mod tree;
mod words;

use std::{
    fs,
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use self::{
    account::Account,
    error::SyntaxErrors,
    files::{Disk, Files},
    lines::Main,
    translate::Given,
};
pub(crate) use self::{account::Sum, error::ImportError};

/// What to import, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Keepalived {
    /// The keepalived.conf; `-` reads standard input.
    pub(crate) file: PathBuf,
    /// The file to write, which must not be there yet. Without it: standard output.
    #[arg(long, short = 'O', value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// This node's id for lines that begin with `@`, as in keepalived's option of that name. Without
    /// it: the host name up to its first dot.
    #[arg(long, value_name = "ID")]
    pub(crate) config_id: Option<String>,
    /// An address of this host's own for mode "nat"; may be given again.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) nat_address: Vec<IpAddr>,
}

/// A steerd.toml, and what became of the lines.
#[derive(Debug)]
pub(crate) struct Imported {
    /// The text.
    pub(crate) text: String,
    /// How many lines were translated, how many left.
    pub(crate) sum: Sum,
    #[cfg(test)]
    account: Account,
    #[cfg(test)]
    tree: tree::Tree,
}

/// Reads, translates, and writes to a file if one is named. `hostname` is this host's.
pub(crate) fn keepalived(args: &Keepalived, hostname: &str) -> Result<Imported, ImportError> {
    let stdin = args.file == Path::new("-");
    let read = match stdin {
        true => files::bounded(io::stdin().lock()),
        false => Disk.read(&args.file),
    };
    let bytes = read.map_err(|source| ImportError::Read {
        path: args.file.clone(),
        source,
    })?;
    let name = args.file.file_name().unwrap_or_default().to_string_lossy();
    let main = match stdin {
        true => Main {
            name: "stdin",
            path: None,
        },
        false => Main {
            name: &name,
            path: Some(&args.file),
        },
    };
    let short = hostname.split('.').next().unwrap_or(hostname);
    let config_id = args.config_id.as_deref().unwrap_or(short);
    let given = Given {
        nat_addresses: args.nat_address.clone(),
    };
    let imported = import(&Disk, &main, &bytes, config_id, &given)?;
    if let Some(path) = &args.out {
        write(path, &imported.text)?;
    }
    Ok(imported)
}

/// The same without the disk.
fn import(
    files: &impl Files,
    main: &Main<'_>,
    bytes: &[u8],
    config_id: &str,
    given: &Given,
) -> Result<Imported, SyntaxErrors> {
    let lines = lines::lines(files, main, bytes, config_id);
    let tree = tree::tree(lines).map_err(SyntaxErrors)?;
    let mut account = Account::of(&tree);
    let translated = translate::translate(&tree, given, &mut account);
    let head = text::Head {
        from: main.name,
        todo: &translated.todo,
    };
    Ok(Imported {
        text: text::write(&head, &translated.file, &tree.names),
        sum: account.sum(),
        #[cfg(test)]
        account,
        #[cfg(test)]
        tree,
    })
}

/// Writes a new file: it may hold a password, so that it is for its owner alone.
fn write(path: &Path, text: &str) -> Result<(), ImportError> {
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o600);
    let written = options.open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => ImportError::Exists(path.to_owned()),
        _ => ImportError::Write {
            path: path.to_owned(),
            source,
        },
    })
}

#[cfg(test)]
mod tests;
