from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import jinja2
import pytest
import transformers

from pilotlight.scheduler.gateway.text.chat_template import ChatTemplate
from pilotlight.scheduler.gateway.text.text_model import read_chat_template
from pilotlight.scheduler.gateway.text.tokenizer import TextTokenizer

MESSAGES = [
    {"role": "system", "content": "Be <b>brief</b> & kind."},
    {"role": "user", "content": "  Hello, naïve 🎉\n"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "Why?", "name": "ada"},
]
CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content | trim + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
LLAMA = """\
{% if messages[0]['role'] == 'system' %}
    {% set loop_messages = messages[1:] %}{% set system = messages[0]['content'] %}
{% else %}
    {% set loop_messages = messages %}
{% endif %}
{{ bos_token }}{% for message in loop_messages %}
    {% if loop.index0 == 0 and system is defined %}<<SYS>>{{ system }}<</SYS>>{% endif %}
    {% if message['role'] == 'user' %}[INST] {{ message['content'].strip() }} [/INST]
    {% elif message['role'] == 'assistant' %}
        {% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}
    {% endif %}
{% endfor %}
"""
TRICKS = """\
{% set state = namespace(users=0) %}
{% for message in messages %}
    {% if message.role == 'system' %}{% continue %}{% endif %}
    {% if message.role == 'user' %}{% set state.users = state.users + 1 %}{% endif %}
    {% if state.users > 1 %}{% break %}{% endif %}
    {{ message | tojson }}{{ message.content | tojson(indent=2) }}
{% endfor %}
{% if tools is not none %}{{ raise_exception('no tools here') }}{% endif %}
{{ state.users }}{{ dict(a=1) }}{{ range(3) | list }}
"""


SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def render(source: str) -> str:
    return ChatTemplate(source).render(MESSAGES, special_tokens=SPECIAL_TOKENS)


@pytest.mark.parametrize("source", [CHATML, LLAMA, TRICKS])
def test_renders_as_transformers_does(source: str, model_directories: dict[str, Path]) -> None:
    reference = transformers.AutoTokenizer.from_pretrained(str(model_directories["byte-level"]))
    expected = reference.apply_chat_template(
        MESSAGES, chat_template=source, tokenize=False, add_generation_prompt=True
    )

    assert render(source) == expected


def test_a_rendered_prompt_has_the_ids_that_transformers_gives_it(
    model_directories: dict[str, Path], text_tokenizers: dict[str, TextTokenizer]
) -> None:
    directory = model_directories["byte-level"]
    tokenizer = text_tokenizers["byte-level"]
    reference = transformers.AutoTokenizer.from_pretrained(str(directory))
    expected = reference.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_dict=False
    )
    source = read_chat_template(directory)
    assert source is not None

    text = ChatTemplate(source).render(
        [{"role": "user", "content": "Hello"}], special_tokens=tokenizer.special_tokens
    )

    assert tokenizer.encode(text, add_special_tokens=False) == expected


def test_the_current_time_comes_from_the_clock() -> None:
    noon = datetime(2026, 2, 3, 12, tzinfo=UTC)
    dated = ChatTemplate("{{ strftime_now('%d %b %Y') }}", now=lambda: noon)

    assert dated.render(MESSAGES, special_tokens={}) == "03 Feb 2026"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ namespace(__class__=1) }}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}",
    ],
)
def test_a_template_stays_in_its_sandbox(source: str) -> None:
    with pytest.raises(jinja2.TemplateError, match=r"unsafe|not allowed|undefined|attribute"):
        render(source)
