"""A small word-level tokenizer for tests of tasks: leading spaces belong to words, digits are single or in pairs."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from patchclamp.nouns.tasks.builtin import (
    agreement,
    capitals,
    colored_objects,
    countries,
    greater_than,
    ioi,
    mcqa,
    pronouns,
    sentiment,
    word_lists,
)


def build(texts: list[str], digits: int = 1, bos: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer that knows the words of these texts, each as one token."""
    raw = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    pattern = rf" ?[A-Za-z]+|\d{{{digits}}}|\d|\n| |[^\w\s]"
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    raw.train_from_iterator(
        texts, trainers.WordLevelTrainer(vocab_size=50_000, special_tokens=["[UNK]", "<s>"])
    )
    if bos:
        raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", bos_token="<s>")


def for_tasks(digits: int = 1, bos: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer for which every word of the built-in tasks is one token."""
    texts = [f" {number:02d} {number:04d}" for number in range(100)]
    for words in (
        word_lists.MEN,
        word_lists.WOMEN,
        word_lists.PLACES,
        word_lists.GIFTS,
        word_lists.SPANS_OF_TIME,
        word_lists.COLORS,
    ):
        texts += [f" {word}" for word in words]
    for words in (
        word_lists.THINGS,
        word_lists.GOOD,
        word_lists.BAD,
        agreement.PREPOSITIONS,
        colored_objects.PLACES,
    ):
        texts += [f" {word}" for word in words]
    texts += [f" {word}" for pair in (*word_lists.NOUNS, *agreement.VERBS) for word in pair]
    texts += [f" {word}" for pair in countries.CAPITALS for word in pair]
    texts += [f" {word}" for word in (*sentiment.THINGS, *mcqa.LETTERS, "he", "she", "positive", "negative")]
    for templates in (ioi.TEMPLATES, greater_than.TEMPLATES, capitals.TEMPLATES, pronouns.TEMPLATES):
        texts += list(templates.values())
    texts += [*sentiment.TEMPLATES.values(), sentiment.EXAMPLE, mcqa.EXAMPLE, mcqa.QUERY]
    texts += [*colored_objects.STATEMENTS.values(), *colored_objects.QUESTIONS.values()]
    texts += ["List: The the", "from the year 17", agreement.FRAME]
    return build(texts, digits, bos)
