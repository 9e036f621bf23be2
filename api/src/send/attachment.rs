//! Which files may be sent along: documents, pictures, sound, texts, calendars and contacts. Programs and archives are
//! refused, whatever they are called.

/// Why a file is not sent along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its name has no extension, or one that is not on the list.
    #[error("files with this extension are not accepted")]
    Extension,
    /// It is a program or an archive.
    #[error("programs and archives are not accepted")]
    Forbidden,
    /// Its first bytes are not those of what its name says.
    #[error("the content is not what the file's name says")]
    Mismatch,
}

/// Extensions that are accepted.
const ACCEPTED: [&str; 47] = [
    "pdf", "doc", "docx", "xls", "xlsx", "ppt", "pptx", "odt", "ods", "odp", "rtf", "pages", "numbers", "key", "epub",
    "txt", "csv", "tsv", "md", "log", "json", "xml", "yaml", "yml", "html", "htm", "eml", "asc", "sig", "png", "jpg",
    "jpeg", "gif", "webp", "bmp", "tif", "tiff", "svg", "heic", "heif", "ics", "vcf", "mp3", "wav", "m4a", "mp4",
    "mov",
];
/// Accepted formats that are ZIP containers.
const ZIPPED: [&str; 10] = ["docx", "xlsx", "pptx", "odt", "ods", "odp", "pages", "numbers", "key", "epub"];
/// How programs and archives begin.
const FORBIDDEN: [&[u8]; 11] = [
    b"MZ",
    b"\x7fELF",
    b"#!",
    b"\xca\xfe\xba\xbe",
    b"\xcf\xfa\xed\xfe",
    b"\xfe\xed\xfa\xcf",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ\0",
];
/// How some formats begin.
const BEGINNINGS: [(&[&str], &[u8]); 5] = [
    (&["pdf"], b"%PDF-"),
    (&["png"], b"\x89PNG\r\n\x1a\n"),
    (&["jpg", "jpeg"], b"\xff\xd8\xff"),
    (&["gif"], b"GIF8"),
    (&["docx", "xlsx", "pptx", "odt", "ods", "odp", "epub"], b"PK\x03\x04"),
];

/// Judges the name of a file.
///
/// # Errors
/// [`Refused::Extension`].
pub fn judge_name(filename: &str) -> Result<(), Refused> {
    if ACCEPTED.contains(&extension(filename).as_str()) { Ok(()) } else { Err(Refused::Extension) }
}

/// Judges a file by its name and its first bytes.
///
/// # Errors
/// See [`Refused`].
pub fn judge(filename: &str, content: &[u8]) -> Result<(), Refused> {
    judge_name(filename)?;
    let extension = extension(filename);
    let is_zip = content.starts_with(b"PK\x03\x04") && !ZIPPED.contains(&extension.as_str());
    // Two letters begin many a text; what they begin is a program only where other bytes are not text either.
    let binary = content.iter().take(512).any(|b| matches!(b, 0..=8 | 14..=31));
    let forbidden = FORBIDDEN.iter().any(|begins| content.starts_with(begins) && (binary || begins.len() > 3));
    if is_zip || forbidden {
        return Err(Refused::Forbidden);
    }
    let expected = BEGINNINGS.iter().find(|(of, _)| of.contains(&extension.as_str()));
    match expected {
        Some((_, begins)) if !content.starts_with(begins) => Err(Refused::Mismatch),
        _ => Ok(()),
    }
}

/// Media types by extension; whatever is not here is a stream of octets.
const MEDIA_TYPES: [(&[&str], &str); 19] = [
    (&["pdf"], "application/pdf"),
    (&["txt", "md", "log", "yaml", "yml"], "text/plain"),
    (&["csv"], "text/csv"),
    (&["html", "htm"], "text/html"),
    (&["json"], "application/json"),
    (&["xml"], "application/xml"),
    (&["ics"], "text/calendar"),
    (&["vcf"], "text/vcard"),
    (&["png"], "image/png"),
    (&["jpg", "jpeg"], "image/jpeg"),
    (&["gif"], "image/gif"),
    (&["webp"], "image/webp"),
    (&["svg"], "image/svg+xml"),
    (&["tif", "tiff"], "image/tiff"),
    (&["mp3"], "audio/mpeg"),
    (&["mp4"], "video/mp4"),
    (&["docx"], "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    (&["xlsx"], "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    (&["pptx"], "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
];

/// Returns the media type that a file's name stands for.
#[must_use]
pub fn media_type(filename: &str) -> &'static str {
    let extension = extension(filename);
    let found = MEDIA_TYPES.iter().find(|(of, _)| of.contains(&extension.as_str()));
    found.map_or("application/octet-stream", |(_, media_type)| media_type)
}

/// Tells whether a text is a media type, perhaps with parameters (RFC 2045 §5.1), of at most 255 characters.
#[must_use]
pub fn is_media_type(text: &str) -> bool {
    let token =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b));
    let essence = text.split(';').next().unwrap_or_default().trim();
    let typed = essence.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype));
    typed && text.len() <= 255 && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
}

fn extension(filename: &str) -> String {
    filename.trim().rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_archives_are_refused_whatever_they_are_called() {
        let rows: [(&str, &[u8], Result<(), Refused>); 10] = [
            ("bill.pdf", b"%PDF-1.7", Ok(())),
            ("Bill.PDF", b"%PDF-1.7", Ok(())),
            ("bill.pdf", b"MZ\x90\0\x03", Err(Refused::Forbidden)),
            ("bill.pdf", b"hello", Err(Refused::Mismatch)),
            ("notes.txt", b"MZ is two letters", Ok(())),
            ("run.exe", b"MZ\x90\0", Err(Refused::Extension)),
            ("files.zip", b"PK\x03\x04", Err(Refused::Extension)),
            ("notes.txt", b"PK\x03\x04", Err(Refused::Forbidden)),
            ("sheet.xlsx", b"PK\x03\x04", Ok(())),
            ("noextension", b"x", Err(Refused::Extension)),
        ];
        for (name, content, expected) in rows {
            assert_eq!(judge(name, content), expected, "{name}");
        }
    }
}
