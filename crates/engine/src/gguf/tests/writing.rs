//! How a file comes into being on disk, and what the writer refuses to write.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use super::super::{Array, File, TensorType, Writer};
use super::raw::{key, string};
use crate::error::Error;

/// A file of two tensors: 12 and 8 bytes of data.
fn two_tensors() -> Writer {
    let mut writer = Writer::new();
    writer.tensor("a", &[3], TensorType::F32).tensor("b", &[2, 2], TensorType::F16);
    writer
}

/// Fills tensor 0 with 12 bytes and tensor 1 with `len`, in two writes.
fn fill_second_with(len: usize) -> impl FnMut(usize, &mut dyn Write) -> io::Result<()> {
    move |index, out| match index {
        0 => out.write_all(&[1; 12]),
        _ => out.write_all(&[2; 4]).and_then(|()| out.write_all(&vec![2; len - 4])),
    }
}

#[track_caller]
fn refuses(writer: &Writer, text: &str) {
    let error = writer.file_len().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains(text), "{error}");
    let mut out = Vec::new();
    assert!(writer.write_to(&mut out, &mut |_, _| panic!("must not ask for data")).is_err());
    assert_eq!(out, b"", "nothing may be written");
}

#[test]
fn a_tensor_with_a_wrong_number_of_bytes_is_named() {
    let mut out = Vec::new();
    two_tensors().write_to(&mut out, &mut fill_second_with(8)).unwrap();
    for len in [4, 7, 9, 100] {
        let mut out = Vec::new();
        let error = two_tensors().write_to(&mut out, &mut fill_second_with(len)).unwrap_err();
        assert!(out.len() as u64 <= two_tensors().file_len().unwrap(), "wrote on behind the tensor");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert_eq!(error.to_string(), format!("tensor `b` has 8 bytes, but {len} were written"));
    }
}

#[test]
fn what_the_reader_would_refuse_is_not_written() {
    let mut writer = two_tensors();
    refuses(writer.tensor("a", &[1], TensorType::F32), "a name that no earlier tensor has");
    refuses(Writer::new().tensor("", &[1], TensorType::F32), "expected a name");
    refuses(Writer::new().tensor("n".repeat(64), &[1], TensorType::F32), "at most 63");
    refuses(Writer::new().tensor("t", &[], TensorType::F32), "tensor `t`: no f32 tensor has dims []");
    refuses(Writer::new().tensor("t", &[1; 5], TensorType::F32), "dims [1, 1, 1, 1, 1]");
    refuses(Writer::new().tensor("t", &[3], TensorType::TQ1_0), "no tq1_0 tensor has dims [3]");
    refuses(Writer::new().tensor("t", &[u64::MAX, 2], TensorType::I8), "tensor `t`");
    let mut writer = Writer::new();
    let half = (1 << 63) - 1;
    refuses(
        writer.tensor("a", &[half], TensorType::I8).tensor("b", &[half], TensorType::I8).tensor(
            "c",
            &[1],
            TensorType::I8,
        ),
        "does not fit in 2^64 bytes",
    );
    refuses(Writer::new().metadata("", 1u64), "expected a name");
    refuses(Writer::new().metadata("k", 1u8).metadata("k", 2u8), "`k` again");
    refuses(Writer::new().alignment(0), "general.alignment: U32(0) is not a power of two of type u32");
    refuses(Writer::new().alignment(24), "is not a power of two");
    refuses(Writer::new().metadata("general.alignment", 32u64), "is not a power of two of type u32");
    let deep = (0..8).fold(Array::from(Vec::<u8>::new()), |array, _| Array::from(vec![array]));
    refuses(Writer::new().metadata("k", deep), "nested at most 8 deep");
}

#[test]
fn the_alignment_key_is_written_like_any_other() {
    let mut bytes = Vec::new();
    Writer::new().alignment(64).metadata("k", "v").write_to(&mut bytes, &mut |_, _| Ok(())).unwrap();
    let keys = [key(b"general.alignment", 4, &64u32.to_le_bytes()), key(b"k", 8, &string(b"v"))].concat();
    assert_eq!(&bytes[24..24 + keys.len()], keys);
    assert_eq!(bytes.len(), 128);
}

#[test]
fn a_file_is_replaced_when_complete_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, "old").unwrap();
    let names = || {
        let mut names: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };

    let error = two_tensors().write_file(&path, &mut fill_second_with(7)).unwrap_err();
    let Error::Io { path: named, action: "write", source } = error else { panic!("{error}") };
    assert_eq!((named, source.kind()), (path.clone(), ErrorKind::InvalidData));
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(names(), ["model.gguf"], "the partial file must be gone");

    let mut during = None;
    let len = two_tensors()
        .write_file(&path, &mut |index, out| {
            during = Some((fs::read(&path)?, names().len()));
            fill_second_with(8)(index, out)
        })
        .unwrap();
    assert_eq!(during, Some((b"old".to_vec(), 2)), "written beside the target");
    assert_eq!(names(), ["model.gguf"]);
    assert_eq!(fs::metadata(&path).unwrap().len(), len);
    let file = File::open(&path).unwrap();
    assert_eq!(file.data(file.tensor("b").unwrap()), [2; 8]);
}

#[test]
fn targets_that_are_no_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = |path: &Path| {
        let mut fill = |_: usize, _: &mut dyn Write| panic!("must not ask for data");
        two_tensors().write_file(path, &mut fill).unwrap_err().chain()
    };
    let text = refusal(folder.path());
    assert!(text.ends_with("cannot write: is there and is not a regular file"), "{text}");
    assert!(refusal(&folder.path().join("absent/model.gguf")).contains("absent/model.gguf: cannot write: "));
    assert!(refusal(Path::new("/")).contains("is not a regular file"));
}

#[cfg(unix)]
#[test]
fn a_link_keeps_leading_to_its_file_and_a_device_stays_a_device() {
    let folder = tempfile::tempdir().unwrap();
    let (target, link) = (folder.path().join("target"), folder.path().join("link"));
    fs::write(&target, "old").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    two_tensors().write_file(&link, &mut fill_second_with(8)).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::read(&target).unwrap().starts_with(b"GGUF"));

    let error = two_tensors().write_file(Path::new("/dev/null"), &mut fill_second_with(8)).unwrap_err();
    assert!(error.chain().contains("is not a regular file"), "{error}");
}
