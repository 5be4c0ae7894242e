"""Spoken numbers, digit strings and commands, synthesised by espeak-ng: the audio half of Tiny World's data.

`make_clip(seed)` returns one clip that depends on nothing but its arguments. Clips made with `held_out=True` are
spoken by `HELD_OUT_VOICES`, whose variants (the shape of the vocal tract) no training voice has; that is what differs
from training. Their phrases come from the same grammar, drawn independently, so a phrase may occur in both; and they
are left clean, while three quarters of the training clips are changed by `augment`.

espeak-ng comes with the wheel `espeakng-loader`; its C interface is described in `speak_lib.h` of espeak-ng 1.52.
"""

import ctypes
from pathlib import Path
from typing import NamedTuple

import espeakng_loader
import numpy as np
import soxr


SAMPLE_RATE = 16_000
MAX_SECONDS = 3.0

# accent+variant. "en" is espeak's name for its British English.
TRAIN_VOICES = (
    *("en-us+m1", "en-us+m3", "en-us+m6", "en-us+m7", "en-us+Michael", "en-us+Denis"),
    *("en-us+f1", "en-us+f2", "en-us+f4", "en-us+Annie", "en-us+linda", "en-us+steph"),
    *("en+m1", "en+m4", "en+f1", "en+f4"),
    *("en-gb-x-rp+m3", "en-gb-x-rp+f2", "en-gb-scotland+m7", "en-gb-scotland+f1", "en-029+m4", "en-029+f4"),
)
HELD_OUT_VOICES = ("en-us+m2", "en-us+f3", "en+m5", "en-gb-x-rp+f5")

RATES = (150, 230)  # words a minute, lowest and highest
PITCHES = (35, 65)  # espeak's scale, 0 to 99, 50 is the voice's own
PITCH_RANGES = (30, 70)  # liveliness of the intonation, same scale

UNITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = (
    *("ten", "eleven", "twelve", "thirteen", "fourteen"),
    *("fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

# One of these is drawn, then each {name} in it is replaced by a word of SLOTS.
COMMANDS = (
    *("turn {switch} the {room} {device}", "turn {switch} the {device}", "turn the {device} {way}"),
    *("play {media}", "play {media} in the {room}", "{media_action} the {media}"),
    *("set the timer to {amount} minutes", "set the volume to {amount}", "{start_stop} the timer"),
    *("{open_close} the {side} {opening}", "{open_close} the {room} {opening}", "{open_close} the {opening}"),
    *("move {direction}", "go {direction}", "call {person}", "{short}", "what time is it"),
)
SLOTS = {
    "switch": ("on", "off"),
    "room": ("kitchen", "bedroom", "garden"),
    "device": ("light", "fan", "radio"),
    "way": ("up", "down", "on", "off"),
    "media": ("music", "radio", "news"),
    "media_action": ("start", "stop", "pause"),
    "start_stop": ("start", "stop"),
    "amount": (*UNITS[2:], *TEENS, *TENS),
    "open_close": ("open", "close"),
    "side": ("left", "right", "front", "back"),
    "opening": ("door", "window"),
    "direction": ("up", "down", "left", "right", "back", "home"),
    "person": ("mom", "home"),
    "short": ("stop", "start", "pause", "yes", "no"),
}

# What share of phrases is a number, a digit string, a command.
PHRASE_KINDS = ("number", "digits", "command")
PHRASE_WEIGHTS = (0.25, 0.3, 0.45)

SILENCE = 0.01  # |sample| below this share of the clip's peak is silence at its ends
MARGIN_SECONDS = 0.03  # silence kept at both ends
AUGMENTED_SHARE = 0.75  # of the training clips; the rest stay clean, as held-out clips are

# Constants of speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_POSITION_CHARACTER = 1
_CHARS_UTF8 = 1
_PARAMETERS = {"rate": 1, "pitch": 3, "pitch_range": 4}
_RANDOM_SEED = 1

_SYNTH_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Clip(NamedTuple):
    """`samples` is mono int16 at `SAMPLE_RATE`, shape (length,); `text` is lower-case words with single spaces."""

    samples: np.ndarray
    text: str
    voice: str


def words() -> list[str]:
    """Every word a phrase can hold, sorted."""
    fixed = {word for command in COMMANDS for word in command.split() if not word.startswith("{")}
    return sorted(fixed.union(UNITS, TEENS, TENS, *SLOTS.values()))


def spell_number(number: int) -> str:
    """`42` -> "forty two", for 0 to 99."""
    if not 0 <= number <= 99:
        raise ValueError(f"spell_number takes 0 to 99, got {number}")
    if number < 20:
        return (UNITS + TEENS)[number]
    tens, unit = divmod(number, 10)
    return TENS[tens - 2] + (f" {UNITS[unit]}" if unit else "")


def make_phrase(rng: np.random.Generator) -> str:
    """One phrase of one to six words: a number to 99, two or three digits, or a command."""
    kind = rng.choice(PHRASE_KINDS, p=PHRASE_WEIGHTS)
    if kind == "number":
        # Half of them below twenty, whose words are otherwise heard too seldom to be learned.
        return spell_number(int(rng.integers(rng.choice([20, 100]))))
    if kind == "digits":
        return " ".join(rng.choice(UNITS, size=rng.integers(2, 4)))
    command = str(rng.choice(COMMANDS))
    return command.format(**{slot: rng.choice(choices) for slot, choices in SLOTS.items()})


def speak(text: str, voice: str, rate: int = 180, pitch: int = 50, pitch_range: int = 50) -> np.ndarray:
    """Synthesises `text`, the same samples for the same arguments.

    espeak-ng keeps counters (vocal flutter among them) for the life of the library, and re-initialising it does not
    reset them, so the library is loaded afresh for every call: 5 ms in all. It is not re-entrant: call it from one
    thread of a process only. Linux and macOS, whose `dlclose` unloads the library.

    Args:
        text: what to say.
        voice: "accent+variant", such as "en-us+m1".
        rate: words a minute, 80 to 450.
        pitch, pitch_range: 0 to 99.

    Returns:
        float32 in [-1, 1], shape (length,), at `SAMPLE_RATE`.

    Raises:
        ValueError: espeak-ng has no such accent or variant.
    """
    _check_variant(voice)
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    library.espeak_Synth.argtypes = _SYNTH_ARGUMENTS
    pieces: list[np.ndarray] = []

    @_SYNTH_CALLBACK
    def keep(samples, count, events):
        if samples and count > 0:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    try:
        path = str(espeakng_loader.get_data_path()).encode()
        sample_rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, path, _INITIALIZE_DONT_EXIT)
        if sample_rate <= 0:
            raise RuntimeError(f"espeak-ng did not start with the data in {path.decode()}")
        library.espeak_ng_SetRandSeed(ctypes.c_long(_RANDOM_SEED))
        library.espeak_SetSynthCallback(keep)
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no accent {voice.partition('+')[0]!r} (voice {voice!r})")
        for name, value in (("rate", rate), ("pitch", pitch), ("pitch_range", pitch_range)):
            library.espeak_SetParameter(_PARAMETERS[name], int(value), 0)
        spoken = text.encode() + b"\0"
        library.espeak_Synth(spoken, len(spoken), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None)
        library.espeak_Synchronize()
    finally:
        library.espeak_Terminate()
        _unload(library)
    samples = np.concatenate(pieces).astype(np.float32) / 32768
    return soxr.resample(samples, sample_rate, SAMPLE_RATE)


_SYNTH_ARGUMENTS = (
    *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint),
    *(ctypes.c_void_p, ctypes.c_void_p),
)


def _check_variant(voice: str) -> None:
    """espeak-ng itself takes an unknown variant in silence and speaks without it."""
    variant = voice.partition("+")[2]
    if variant and not (Path(espeakng_loader.get_data_path()) / "voices" / "!v" / variant).is_file():
        raise ValueError(f"espeak-ng has no variant {variant!r} (voice {voice!r})")


def _unload(library: ctypes.CDLL) -> None:
    close = ctypes.CDLL(None).dlclose
    close.argtypes = (ctypes.c_void_p,)
    close(library._handle)


def trim_silence(samples: np.ndarray) -> np.ndarray:
    """Cuts silence off both ends of `samples` (length,), but for `MARGIN_SECONDS`."""
    loud = np.flatnonzero(np.abs(samples) > SILENCE * np.abs(samples).max())
    margin = int(MARGIN_SECONDS * SAMPLE_RATE)
    return samples[max(loud[0] - margin, 0) : loud[-1] + margin + 1]


def augment(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds up to 0.15 s of silence at each end, white noise 15 to 40 dB below the speech, a gain of -10 to +3 dB."""
    before, after = rng.integers(0, int(0.15 * SAMPLE_RATE), size=2)
    speech_power = np.mean(samples**2)
    samples = np.pad(samples, (before, after))
    noise_power = speech_power / 10 ** (rng.uniform(15, 40) / 10)
    noise = rng.standard_normal(len(samples), dtype=np.float32) * np.sqrt(noise_power)
    return (samples + noise) * 10 ** (rng.uniform(-10, 3) / 20)


def make_clip(seed: int, held_out: bool = False) -> Clip:
    """One clip, at most `MAX_SECONDS` long, a function of its arguments alone.

    Args:
        seed: at least 0; training and held-out clips of the same seed have nothing in common.
        held_out: speak with a voice that training never hears, and leave the clip clean.
    """
    rng = np.random.default_rng([seed, held_out])
    voice = str(rng.choice(HELD_OUT_VOICES if held_out else TRAIN_VOICES))
    while True:
        text = make_phrase(rng)
        manner = [int(rng.integers(low, high + 1)) for low, high in (RATES, PITCHES, PITCH_RANGES)]
        samples = trim_silence(speak(text, voice, *manner))
        if not held_out and rng.random() < AUGMENTED_SHARE:
            samples = augment(samples, rng)
        if len(samples) <= MAX_SECONDS * SAMPLE_RATE:
            return Clip(_to_int16(samples), text, voice)


def _to_int16(samples: np.ndarray) -> np.ndarray:
    return (np.clip(samples, -1, 1) * 32767).round().astype(np.int16)
