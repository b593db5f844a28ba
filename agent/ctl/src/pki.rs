//! Keys and certificates for the channel between nodes: an authority of one's own, in files.
//!
//! Every file is readable by its owner alone, and none is ever overwritten: a key that is in use must
//! not be lost to a slip. The authority's key is needed on no node; keep it where nodes are set up.

use std::{
    fmt,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde::Serialize;
use steerd_core::{
    channel::{message::is_name, name_uri},
    config::{CHANNEL_PORT, Name},
};
use x509_parser::{extensions::GeneralName, pem::Pem, time::ASN1Time};

use crate::table::{Cell, Column, Look, Table, Tone};

/// Where the files are unless told otherwise.
pub(crate) const DIRECTORY: &str = "/etc/steerd/pki";

const CA_CERTIFICATE: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const CA_DAYS: u32 = 3650;
const DAY: Duration = Duration::from_secs(86_400);

/// A clock that is behind by so much still finds a new certificate valid.
const BEFORE: Duration = Duration::from_secs(3600);

/// The daemon warns so many days before a certificate expires.
const WARN_DAYS: i64 = 30;

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PkiError {
    /// It could not be a node's name.
    #[error(
        "{0:?} is no name of a node: 1 to 64 letters, digits, dots, underscores and hyphens, and not \
         \"ca\""
    )]
    Name(String),
    /// A file is in the way.
    #[error("{} is there already: move it away if it is not needed any more; nothing was changed", .0.display())]
    Exists(PathBuf),
    /// There is no authority.
    #[error("there is no authority in {}: make one by `steerctl pki init --dir {}`", .0.display(), .0.display())]
    NoAuthority(PathBuf),
    /// A file or directory cannot be used.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was to be done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is no certificate or key.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A key or certificate cannot be made.
    #[error("cannot make a key or certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// What was made.
#[derive(Debug, Serialize)]
pub(crate) struct Made {
    /// The files.
    pub(crate) files: Vec<PathBuf>,
    /// What to do with them.
    pub(crate) next: String,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for file in &self.files {
            writeln!(f, "made {}", file.display())?;
        }
        write!(f, "\n{}", self.next)
    }
}

/// A certificate that was found.
#[derive(Debug, Serialize)]
pub(crate) struct Found {
    /// Its file.
    pub(crate) file: PathBuf,
    /// Whom it is for.
    pub(crate) names: Vec<String>,
    /// Whether it is the authority's.
    pub(crate) authority: bool,
    /// When it expires, in seconds since the Unix epoch.
    pub(crate) expires_unix_s: i64,
    /// How many whole days are left; below zero: none.
    pub(crate) days_left: i64,
}

/// Makes an authority in `dir`.
pub(crate) fn init(dir: &Path) -> Result<Made, PkiError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(failed("make", dir))?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(DnType::CommonName, "steerd authority");
    set_validity(&mut params, CA_DAYS);
    let certificate = params.self_signed(&key)?;
    let files = [
        (dir.join(CA_KEY), key.serialize_pem()),
        (dir.join(CA_CERTIFICATE), certificate.pem()),
    ];
    write_all(&files)?;
    let given = given(dir);
    Ok(Made {
        next: format!(
            "next, for each node:  steerctl pki issue NODE --address ITS-ADDRESS{given}\n\
             keep {CA_KEY} here: no node needs it, and who has it can be any node\n"
        ),
        files: files.map(|(path, _)| path).to_vec(),
    })
}

/// Makes a key and a certificate for `node` in `dir`.
pub(crate) fn issue(
    dir: &Path,
    node: &str,
    addresses: &[IpAddr],
    days: u32,
) -> Result<Made, PkiError> {
    if !is_name(node) || node == "ca" {
        return Err(PkiError::Name(node.to_owned()));
    }
    let name = Name::new(node);
    let (certificate_path, key_path) = (dir.join(CA_CERTIFICATE), dir.join(CA_KEY));
    if !certificate_path.exists() || !key_path.exists() {
        return Err(PkiError::NoAuthority(dir.to_owned()));
    }
    let damaged = |path: &Path, error: rcgen::Error| PkiError::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let authority_key = KeyPair::from_pem(&read(&key_path)?).map_err(|e| damaged(&key_path, e))?;
    let authority = Issuer::from_ca_cert_pem(&read(&certificate_path)?, authority_key)
        .map_err(|error| damaged(&certificate_path, error))?;

    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![
        SanType::DnsName(node.try_into()?),
        SanType::URI(name_uri(&name).as_str().try_into()?),
    ];
    let ips = addresses.iter().copied().map(SanType::IpAddress);
    params.subject_alt_names.extend(ips);
    params.distinguished_name.push(DnType::CommonName, node);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Each node is both to its peers.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, days);
    let certificate = params.signed_by(&key, &authority)?;
    let files = [
        (dir.join(format!("{node}.key")), key.serialize_pem()),
        (dir.join(format!("{node}.pem")), certificate.pem()),
    ];
    write_all(&files)?;
    Ok(Made {
        next: instructions(dir, &name, addresses.first().copied()),
        files: files.map(|(path, _)| path).to_vec(),
    })
}

/// The certificates in `dir`, the authority's first.
pub(crate) fn certificates(dir: &Path) -> Result<Vec<Found>, PkiError> {
    let entries = fs::read_dir(dir).map_err(failed("read", dir))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed("read", dir))?.path();
        if path.extension().is_some_and(|extension| extension == "pem") {
            found.extend(look_at(&path)?);
        }
    }
    found.sort_by(|one, other| {
        let key = |found: &Found| (!found.authority, found.file.clone());
        key(one).cmp(&key(other))
    });
    Ok(found)
}

/// The certificates as a table.
pub(crate) fn render(look: Look, found: &[Found]) -> String {
    let columns = [
        Column::left("FILE"),
        Column::left("FOR"),
        Column::right("DAYS LEFT"),
    ];
    let mut table = Table::new(look, columns);
    for found in found {
        let whom = match found.authority {
            true => "the authority".to_owned(),
            false => found.names.join(", "),
        };
        let days = match found.days_left {
            ..0 => Cell::toned("expired", Tone::Bad),
            left if left < WARN_DAYS => Cell::toned(left, Tone::Doubtful),
            left => Cell::new(left),
        };
        table.row([Cell::new(found.file.display()), Cell::new(whom), days]);
    }
    table.to_string()
}

fn instructions(dir: &Path, node: &Name, address: Option<IpAddr>) -> String {
    let listen = address.unwrap_or(IpAddr::from([0, 0, 0, 0]));
    let listen = SocketAddr::new(listen, CHANNEL_PORT);
    let reached = address.map_or(format!("ADDRESS-OF-{node}:{CHANNEL_PORT}"), |_| {
        listen.to_string()
    });
    let source = dir.display();
    format!(
        "next, copy to {DIRECTORY} of {node}, with mode 600, owned by root:\n\
         \x20   {source}/{CA_CERTIFICATE} {source}/{node}.pem {source}/{node}.key\n\
         add to /etc/steerd/steerd.toml of {node}:\n\
         \x20   [channel]\n\
         \x20   listen = \"{listen}\"\n\
         \x20   ca_file = \"{DIRECTORY}/{CA_CERTIFICATE}\"\n\
         \x20   cert_file = \"{DIRECTORY}/{node}.pem\"\n\
         \x20   key_file = \"{DIRECTORY}/{node}.key\"\n\
         and to that of every node (a node passes over the entry of its own name):\n\
         \x20   [[peer]]\n\
         \x20   name = \"{node}\"\n\
         \x20   address = \"{reached}\"\n\
         then on each:  steerctl reload\n"
    )
}

/// The option that names `dir`, where it is not the usual one.
fn given(dir: &Path) -> String {
    match dir == Path::new(DIRECTORY) {
        true => String::new(),
        false => format!(" --dir {}", dir.display()),
    }
}

fn set_validity(params: &mut CertificateParams, days: u32) {
    let now = ASN1Time::now().to_datetime();
    params.not_before = now - BEFORE;
    params.not_after = now + DAY * days;
}

/// All files or none.
fn write_all(files: &[(PathBuf, String)]) -> Result<(), PkiError> {
    if let Some((path, _)) = files.iter().find(|(path, _)| path.exists()) {
        return Err(PkiError::Exists(path.clone()));
    }
    for (at, (path, text)) in files.iter().enumerate() {
        if let Err(error) = write(path, text) {
            for (path, _) in &files[..at] {
                // What is left says so at the next attempt.
                let _ = fs::remove_file(path);
            }
            return Err(error);
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o600);
    let opened = options.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => PkiError::Exists(path.to_owned()),
        _ => failed("make", path)(error),
    });
    let mut file = opened?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(failed("write", path))
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(failed("read", path))
}

fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> PkiError {
    move |source| PkiError::File {
        what,
        path: path.to_owned(),
        source,
    }
}

fn look_at(path: &Path) -> Result<Vec<Found>, PkiError> {
    let damaged = |reason: String| PkiError::Damaged {
        path: path.to_owned(),
        reason,
    };
    let text = fs::read(path).map_err(failed("read", path))?;
    let mut found = Vec::new();
    for pem in Pem::iter_from_buffer(&text) {
        let pem = pem.map_err(|error| damaged(error.to_string()))?;
        let certificate = pem
            .parse_x509()
            .map_err(|error| damaged(error.to_string()))?;
        let names = certificate.subject_alternative_name();
        let names = names.map_err(|error| damaged(error.to_string()))?;
        let names = names.iter().flat_map(|names| &names.value.general_names);
        let names = names.filter_map(|name| match name {
            GeneralName::DNSName(text) => Some((*text).to_owned()),
            GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
            _ => None,
        });
        let expires = certificate.validity().not_after.timestamp();
        let left = expires.saturating_sub(ASN1Time::now().timestamp());
        found.push(Found {
            file: path.to_owned(),
            names: names.collect(),
            authority: certificate.is_ca(),
            expires_unix_s: expires,
            days_left: left.div_euclid(86_400),
        });
    }
    Ok(found)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_authority_and_two_nodes() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("pki");
        assert!(matches!(
            issue(&dir, "a", &[], 7),
            Err(PkiError::NoAuthority(_))
        ));
        let made = init(&dir).unwrap();
        assert!(made.to_string().contains("steerctl pki issue NODE"));
        let address = [IpAddr::from([192, 168, 1, 26])];
        let made = issue(&dir, "primary", &address, 730).unwrap().to_string();
        for line in [
            "listen = \"192.168.1.26:7112\"",
            "ca_file = \"/etc/steerd/pki/ca.pem\"",
            "cert_file = \"/etc/steerd/pki/primary.pem\"",
            "key_file = \"/etc/steerd/pki/primary.key\"",
            "[[peer]]",
            "name = \"primary\"",
            "address = \"192.168.1.26:7112\"",
        ] {
            assert!(
                made.contains(&format!("    {line}\n")),
                "{line} in:\n{made}"
            );
        }
        issue(&dir, "under_score.example", &[], 20).unwrap();
        for entry in fs::read_dir(&dir).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let found = certificates(&dir).unwrap();
        let told = found
            .iter()
            .map(|found| (found.authority, found.names.join(" ")));
        let expected = [
            (true, ""),
            (false, "primary 192.168.1.26"),
            (false, "under_score.example"),
        ];
        let expected = expected.map(|(authority, names)| (authority, names.to_owned()));
        assert_eq!(told.collect::<Vec<_>>(), expected);
        // A second may have passed.
        for (found, days) in found.iter().zip([3650, 730, 20]) {
            assert!((days - 1..=days).contains(&found.days_left), "{found:?}");
        }
        assert!(render(Look::default(), &found).contains("the authority"));
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        init(dir).unwrap();
        let before = read(&dir.join(CA_KEY)).unwrap();
        assert!(matches!(init(dir), Err(PkiError::Exists(_))));
        fs::write(dir.join("a.pem"), "mine").unwrap();
        assert!(
            matches!(issue(dir, "a", &[], 7), Err(PkiError::Exists(path)) if path.ends_with("a.pem"))
        );
        assert!(!dir.join("a.key").exists(), "all or nothing");
        assert_eq!(read(&dir.join(CA_KEY)).unwrap(), before);
        assert_eq!(read(&dir.join("a.pem")).unwrap(), "mine");
    }

    #[test]
    fn names_are_names() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path()).unwrap();
        for name in ["", "ca", "../x", "a b", "a/b", &"x".repeat(65)] {
            assert!(
                matches!(issue(dir.path(), name, &[], 7), Err(PkiError::Name(_))),
                "{name:?}"
            );
        }
    }
}
