from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import transformers

from pilotlight.scheduler.errors import InvalidRequest, UnreadableExecutionFile
from pilotlight.scheduler.gateway.text.chat_template import (
    ChatMessage,
    ChatTemplate,
    read_chat_template,
)
from pilotlight.scheduler.gateway.text.tokenizer import TextTokenizer

MESSAGES = (
    ChatMessage(role="system", content="Be <b>brief</b> & kind."),
    ChatMessage(role="user", content="  Hello, naïve 🎉\n"),
    ChatMessage(role="assistant", content="Hi."),
    ChatMessage(role="user", content="Why?", name="ada"),
)
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


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, special_tokens={"bos_token": "<s>", "eos_token": "</s>"})


@pytest.mark.parametrize("source", [CHATML, LLAMA, TRICKS])
def test_renders_as_transformers_does(source: str, model_directories: dict[str, Path]) -> None:
    reference = transformers.AutoTokenizer.from_pretrained(str(model_directories["byte-level"]))
    messages = [
        {"role": message.role, "content": message.content}
        | ({"name": message.name} if message.name else {})
        for message in MESSAGES
    ]
    expected = reference.apply_chat_template(
        messages, chat_template=source, tokenize=False, add_generation_prompt=True
    )

    assert template(source).render(MESSAGES) == expected


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

    text = ChatTemplate(source, special_tokens=tokenizer.special_tokens).render(
        [ChatMessage(role="user", content="Hello")]
    )

    assert tokenizer.encode(text, add_special_tokens=False) == expected


def test_the_current_time_comes_from_the_clock() -> None:
    noon = datetime(2026, 2, 3, 12, tzinfo=UTC)
    dated = ChatTemplate("{{ strftime_now('%d %b %Y') }}", special_tokens={}, now=lambda: noon)

    assert dated.render(MESSAGES) == "03 Feb 2026"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content + 5 }}", "str"),
        ("{{ messages[9].content.strip() }}", "undefined|no element"),
        ("{{ 1 // 0 }}", "zero"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
def test_what_a_template_refuses_is_a_bad_request(source: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        template(source).render(MESSAGES)

    assert caught.value.param == "messages"


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
    with pytest.raises(InvalidRequest, match=r"unsafe|not allowed|undefined|attribute"):
        template(source).render(MESSAGES)


def test_a_template_that_is_none_is_named() -> None:
    with pytest.raises(UnreadableExecutionFile, match="the chat template can't be used"):
        template("{% for %}")


def test_a_template_file_goes_before_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "old"}))
    assert read_chat_template(tmp_path) == "old"

    (tmp_path / "chat_template.jinja").write_text("new")

    assert read_chat_template(tmp_path) == "new"


def test_of_several_templates_the_default_is_taken(tmp_path: Path) -> None:
    listed = [
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": "plain"},
    ]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": listed}))

    assert read_chat_template(tmp_path) == "plain"


def test_a_base_model_has_no_template(tmp_path: Path) -> None:
    assert read_chat_template(tmp_path) is None
