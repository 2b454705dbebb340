//! From when until when a certificate is valid. rustls looks at that for chains; of a certificate that is trusted itself we must.

use rustls::CertificateError;

/// Checks a certificate (X.509, RFC 5280) against a time in seconds since 1970.
///
/// # Errors
/// `NotValidYet` or `Expired`; `BadEncoding` if it cannot be read.
pub(super) fn check(certificate: &[u8], now: u64) -> Result<(), rustls::Error> {
    let (from, until) = validity(certificate).ok_or(CertificateError::BadEncoding)?;
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    if now < from {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > until {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// `Certificate { tbsCertificate { [0] version?, serialNumber, signature, issuer, validity { notBefore, notAfter } …`
fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    const SEQUENCE: u8 = 0x30;
    let (_, certificate, _) = element(certificate).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let (_, mut rest, _) = element(certificate).filter(|(tag, ..)| *tag == SEQUENCE)?;
    if rest.first() == Some(&0xa0) {
        rest = element(rest)?.2;
    }
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (_, dates, _) = element(rest).filter(|(tag, ..)| *tag == SEQUENCE)?;
    let (tag, from, rest) = element(dates)?;
    let from = time(tag, from)?;
    let (tag, until, _) = element(rest)?;
    Some((from, time(tag, until)?))
}

/// The first element of DER: tag, content, and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], mut rest) = bytes.split_first_chunk::<2>()?;
    let mut size = usize::from(length);
    if length & 0x80 != 0 {
        let (digits, after) = rest.split_at_checked(usize::from(length & 0x7f))?;
        if digits.is_empty() || digits.len() > 4 {
            return None;
        }
        size = digits
            .iter()
            .fold(0, |size, digit| (size << 8) | usize::from(*digit));
        rest = after;
    }
    let (content, rest) = rest.split_at_checked(size)?;
    Some((tag, content, rest))
}

/// `UTCTime` (two digits of the year, 1950 to 2049) or `GeneralizedTime`, both in the one form that RFC 5280 allows.
fn time(tag: u8, text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let full = match (tag, text.len()) {
        (0x17, 12) => format!("{}{text}", if text < "50" { "20" } else { "19" }),
        (0x18, 14) => text.to_owned(),
        _ => return None,
    };
    let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", &full).ok()?;
    Some(
        time.to_zoned(jiff::tz::TimeZone::UTC)
            .ok()?
            .timestamp()
            .as_second(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_valid_between_its_dates() {
        let mut parameters = rcgen::CertificateParams::new(vec!["a".to_owned()]).unwrap();
        let cases = [
            (2001, 2049, 978_307_200, 2_493_072_000),
            (1999, 2051, 915_148_800, 2_556_144_000),
        ];
        for (from, until, first, last) in cases {
            parameters.not_before = rcgen::date_time_ymd(from, 1, 1);
            parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = parameters.self_signed(&key).unwrap();
            let at = |now: u64| check(certificate.der(), now);
            assert!(at(first).is_ok() && at(last).is_ok());
            assert_eq!(at(first - 1), Err(CertificateError::NotValidYet.into()));
            assert_eq!(at(last + 1), Err(CertificateError::Expired.into()));
            for cut in 0..certificate.der().len() {
                let _ = check(&certificate.der()[..cut], first);
            }
        }
    }
}
