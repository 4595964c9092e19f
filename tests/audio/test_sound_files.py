"""Sound files below a folder are found in one order, once each, whatever links there are."""

from pathlib import Path

from miipher2.audio.files import find_files, find_sound_files


def create(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(paths: list[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def test_sound_files_at_any_depth_are_listed_by_name_and_hidden_ones_skipped(tmp_path: Path) -> None:
    create(tmp_path, "b.wav", "a/z.FLAC", "a/b/c.mp3", "notes.txt", ".hidden.wav", ".cache/x.wav")
    assert names(find_sound_files(tmp_path).paths, tmp_path) == ["a/b/c.mp3", "a/z.FLAC", "b.wav"]
    assert names(find_files(tmp_path), tmp_path) == ["a/b/c.mp3", "a/z.FLAC", "b.wav", "notes.txt"]


def test_links_are_followed_once_and_a_circle_ends(tmp_path: Path) -> None:
    create(tmp_path, "in/z/u.wav", "elsewhere/v.wav")
    root = tmp_path / "in"
    (root / "circle").symlink_to(root, target_is_directory=True)
    (root / "a_copy_of_z").symlink_to(root / "z", target_is_directory=True)
    (root / "outside").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "link.wav").symlink_to(root / "z" / "u.wav")
    (root / "broken.wav").symlink_to(root / "nothing.wav")
    assert names(find_sound_files(root).paths, root) == ["broken.wav", "link.wav", "outside/v.wav", "z/u.wav"]


def test_an_output_folder_inside_is_skipped_but_never_the_folder_itself(tmp_path: Path) -> None:
    create(tmp_path, "a.wav", "out/a.wav", "out/deeper/b.wav", "other/out/c.wav")
    assert names(find_sound_files(tmp_path, exclude=tmp_path / "out").paths, tmp_path) == ["a.wav", "other/out/c.wav"]
    assert len(find_sound_files(tmp_path, exclude=tmp_path).paths) == 4
    assert len(find_sound_files(tmp_path, exclude=tmp_path / "absent").paths) == 4
