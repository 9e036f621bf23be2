//! How mail programs around the world introduce a quote, as data.

/// An attribution line: it begins with one of these (if any are given) and has one of those words near its end.
pub(super) struct Attribution {
    pub starts: &'static [&'static str],
    pub verbs: &'static [&'static str],
}

/// `On … wrote:` and its relatives, lower case.
pub(super) const ATTRIBUTIONS: &[Attribution] = &[
    // English, German, French, Spanish, Catalan, Italian, Portuguese, Dutch
    Attribution { starts: &["on "], verbs: &["wrote", "said", "writes"] },
    Attribution { starts: &["am ", "von "], verbs: &["schrieb", "hat geschrieben"] },
    Attribution {
        starts: &["le ", "il ", "el "],
        verbs: &["a écrit", "ha scritto", "escribió", "va escriure", "écrit"],
    },
    Attribution { starts: &["em ", "no dia ", "a "], verbs: &["escreveu"] },
    Attribution { starts: &["op "], verbs: &["schreef", "heeft geschreven", "geschreven"] },
    // Swedish, Danish, Norwegian, Finnish, Icelandic
    Attribution { starts: &["den ", "på ", "fra ", "kl "], verbs: &["skrev", "skreiv"] },
    Attribution { starts: &["þann ", "á "], verbs: &["skrifaði"] },
    // Romanian, Indonesian and Malay, Vietnamese
    Attribution { starts: &["în ", "pe "], verbs: &["a scris"] },
    Attribution { starts: &["pada "], verbs: &["menulis"] },
    Attribution { starts: &["vào "], verbs: &["đã viết"] },
    // Languages that put the verb last and often begin with the date or the name itself
    Attribution {
        starts: &[],
        verbs: &[
            "napisał(a)",
            "napisała",
            "napisał",
            "pisze", // Polish
            "napsal(a)",
            "napsala",
            "napsal",
            "napísal(a)",
            "napísala",
            "napísal", // Czech, Slovak
            "ezt írta",
            "írta",      // Hungarian
            "kirjoitti", // Finnish
            "şunu yazdı",
            "yazdı", // Turkish
            "пишет",
            "писал(а)",
            "написал(а)",
            "написал",
            "написала", // Russian
            "пише",
            "написав",
            "написала",
            "написа", // Ukrainian, Bulgarian
            "je napisao/la",
            "napisao/la",
            "napisao",
            "napisala",
            "је написао", // Croatian, Serbian
            "έγραψε",     // Greek
            "כתב/ה",
            "כתבה",
            "כתב", // Hebrew
            "كتب", // Arabic
            "写道",
            "寫道",
            "写到",
            "写信说", // Chinese
            "書きました",
            "さんのメール",
            "のメール", // Japanese
            "님이 작성",
            "작성",
            "썼습니다", // Korean
            "rašė",
            "rakstīja",
            "kirjutas", // Lithuanian, Latvian, Estonian
        ],
    },
];

/// What stands between the dashes of `-----Original Message-----`, lower case.
const ORIGINAL_MESSAGE: &[&str] = &[
    "original message",
    "original email",
    "reply message",
    "originalnachricht",
    "ursprüngliche nachricht",
    "message d'origine",
    "message d’origine",
    "message original",
    "mensaje original",
    "missatge original",
    "messaggio originale",
    "mensagem original",
    "oorspronkelijk bericht",
    "originele bericht",
    "oprindelig meddelelse",
    "original meddelelse",
    "ursprungligt meddelande",
    "originalmeddelande",
    "opprinnelig melding",
    "alkuperäinen viesti",
    "wiadomość oryginalna",
    "oryginalna wiadomość",
    "původní zpráva",
    "pôvodná správa",
    "eredeti üzenet",
    "mesaj original",
    "mesajul original",
    "orijinal mesaj",
    "özgün ileti",
    "orijinal i̇leti",
    "исходное сообщение",
    "пересылаемое сообщение",
    "оригінальне повідомлення",
    "оригинално съобщение",
    "originalna poruka",
    "izvorna poruka",
    "αρχικό μήνυμα",
    "הודעה מקורית",
    "الرسالة الأصلية",
    "原始邮件",
    "原始郵件",
    "邮件原件",
    "回复的原邮件",
    "元のメッセージ",
    "original",
    "원본 메시지",
    "원본 메일",
    "tin nhắn gốc",
    "pesan asli",
];

/// What stands between the dashes when a message is passed on, lower case.
const FORWARDED_MESSAGE: &[&str] = &[
    "forwarded message",
    "begin forwarded message",
    "weitergeleitete nachricht",
    "anfang der weitergeleiteten nachricht",
    "message transféré",
    "message transmis",
    "début du message transféré",
    "mensaje reenviado",
    "inicio del mensaje reenviado",
    "messaggio inoltrato",
    "inizio messaggio inoltrato",
    "mensagem encaminhada",
    "início da mensagem encaminhada",
    "doorgestuurd bericht",
    "begin doorgestuurd bericht",
    "vidarebefordrat meddelande",
    "videresendt meddelelse",
    "videresendt melding",
    "välitetty viesti",
    "wiadomość przekazana dalej",
    "przekazana wiadomość",
    "přeposlaná zpráva",
    "preposlaná správa",
    "továbbított üzenet",
    "mesaj redirecționat",
    "yönlendirilen mesaj",
    "i̇letilmiş mesaj",
    "пересылаемое сообщение",
    "переадресоване повідомлення",
    "препратено съобщение",
    "προωθημένο μήνυμα",
    "הודעה שהועברה",
    "转发的邮件",
    "轉寄郵件",
    "转发邮件信息",
    "転送されたメッセージ",
    "전달된 메시지",
    "thư đã chuyển tiếp",
    "pesan terusan",
];

/// Subject prefixes of forwarded messages, lower case.
const FORWARD_PREFIXES: &[&str] = &[
    "fwd",
    "fw",
    "wg",
    "tr",
    "enc",
    "rv",
    "doorst",
    "vb",
    "vs",
    "i",
    "pd",
    "转发",
    "轉寄",
    "転送",
    "ynt",
    "továbbítás",
];

/// Labels of a quoted header block: who, when, to whom, what about. A block has three of the four.
const BLOCK_LABELS: [&[&str]; 4] = [
    &[
        "from",
        "de",
        "von",
        "da",
        "van",
        "från",
        "fra",
        "lähettäjä",
        "od",
        "от",
        "від",
        "kimden",
        "gönderen",
        "feladó",
        "de la",
        "από",
        "מאת",
        "من",
        "发件人",
        "發件人",
        "寄件者",
        "寄件人",
        "差出人",
        "보낸 사람",
        "보낸사람",
        "từ",
        "dari",
    ],
    &[
        "sent",
        "date",
        "gesendet",
        "datum",
        "envoyé",
        "date d'envoi",
        "enviado",
        "enviada em",
        "fecha",
        "data",
        "inviato",
        "verzonden",
        "skickat",
        "sendt",
        "dato",
        "lähetetty",
        "päivämäärä",
        "wysłano",
        "wysłane",
        "odesláno",
        "odoslané",
        "дата",
        "отправлено",
        "надіслано",
        "изпратено",
        "gönderilme",
        "tarih",
        "elküldve",
        "dátum",
        "trimis",
        "στάλθηκε",
        "ημερομηνία",
        "נשלח",
        "תאריך",
        "تاريخ",
        "发送时间",
        "發送時間",
        "日期",
        "寄件日期",
        "送信日時",
        "日付",
        "보낸 날짜",
        "날짜",
        "ngày",
        "tanggal",
        "poslano",
    ],
    &[
        "to",
        "an",
        "à",
        "para",
        "a",
        "aan",
        "till",
        "til",
        "vastaanottaja",
        "do",
        "komu",
        "pro",
        "кому",
        "до",
        "kime",
        "alıcı",
        "címzett",
        "către",
        "προς",
        "אל",
        "إلى",
        "收件人",
        "宛先",
        "받는 사람",
        "đến",
        "kepada",
        "za",
    ],
    &[
        "subject",
        "betreff",
        "objet",
        "asunto",
        "assumpte",
        "oggetto",
        "assunto",
        "onderwerp",
        "ämne",
        "emne",
        "aihe",
        "temat",
        "předmět",
        "predmet",
        "тема",
        "относно",
        "konu",
        "tárgy",
        "subiect",
        "θέμα",
        "נושא",
        "الموضوع",
        "主题",
        "主題",
        "主旨",
        "件名",
        "제목",
        "chủ đề",
        "perihal",
        "subjek",
    ],
];

fn between_dashes(line: &str) -> Option<String> {
    let line = line.trim().trim_matches('*').trim();
    let inner = line.trim_matches(|c: char| matches!(c, '-' | '_' | '—' | '–' | '=')).trim();
    let dashed = line.starts_with("--") || line.starts_with("__") || line.starts_with("==") || line.starts_with('—');
    (dashed && !inner.is_empty() && inner.chars().count() <= 60).then(|| inner.to_lowercase())
}

/// Returns whether a line is `-----Original Message-----` in any of the languages.
pub(super) fn is_original_message(line: &str) -> bool {
    between_dashes(line).is_some_and(|inner| ORIGINAL_MESSAGE.contains(&inner.as_str()))
}

/// Returns whether a text begins with `---------- Forwarded message` or the like.
pub(crate) fn is_forward_marker(text: &str) -> bool {
    let line = text.lines().next().unwrap_or_default().trim();
    let line: String = line.chars().take(120).collect();
    let plain = line.trim_matches(|c: char| c.is_whitespace() || matches!(c, '-' | '_' | '—' | '=' | ':' | '*'));
    let plain = plain.to_lowercase();
    FORWARDED_MESSAGE.iter().any(|marker| plain.starts_with(marker))
}

/// Returns whether a subject says that the message is passed on.
pub(super) fn has_forward_prefix(subject: &str) -> bool {
    subject
        .split_once([':', '：'])
        .is_some_and(|(prefix, _)| FORWARD_PREFIXES.contains(&prefix.trim().to_lowercase().as_str()))
}

/// Returns which kind of label (0 from, 1 date, 2 to, 3 subject) begins a line, if one does.
pub(super) fn block_label(line: &str) -> Option<usize> {
    let line = line.trim_start_matches(|c: char| c.is_whitespace() || c == '*');
    let (label, _) = line.split_once([':', '：'])?;
    let label = label.trim_end_matches(|c: char| c.is_whitespace() || c == '*');
    if label.chars().count() > 16 {
        return None;
    }
    let label = label.to_lowercase();
    BLOCK_LABELS.iter().position(|labels| labels.contains(&label.as_str()))
}

/// Beginnings of the lines that phones and mail programs add, lower case.
pub(super) const MOBILE_SIGNATURE_STARTS: &[&str] = &[
    "sent from my ",
    "sent from mail for ",
    "sent from outlook",
    "sent from yahoo",
    "sent from proton",
    "get outlook for ",
    "sent via ",
    "sent with ",
    "gesendet von ",
    "gesendet mit ",
    "diese nachricht wurde von meinem ",
    "von meinem iphone ",
    "envoyé de mon ",
    "envoyé depuis ",
    "envoyé à partir ",
    "enviado desde ",
    "enviado de mi ",
    "enviado do meu ",
    "enviado a partir ",
    "enviat des de",
    "inviato da ",
    "verzonden vanaf ",
    "verstuurd vanaf ",
    "verzonden met ",
    "skickat från ",
    "sendt fra ",
    "lähetetty ",
    "wysłano z ",
    "wysłane z ",
    "odesláno z ",
    "odoslané z ",
    "отправлено с ",
    "отправлено из ",
    "надіслано з ",
    "изпратено от ",
    "trimis de pe ",
    "στάλθηκε από ",
    "发自我的",
    "發自我的",
    "從我的",
    "gửi từ ",
    "dikirim dari ",
    "poslano s ",
    "elküldve ",
];

/// Ends of such lines in languages that put the verb last, lower case.
pub(super) const MOBILE_SIGNATURE_ENDS: &[&str] =
    &["gesendet", "gönderildi", "から送信", "から送信されました", "에서 보냄", "에서 보냈습니다", "küldve", "傳送"];
