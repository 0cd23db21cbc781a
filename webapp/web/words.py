"""Every message code in words: what happened, to what, and what to do next. The Russian here is the source of the catalogues.

Messages name values; this module formats them by their names (``*_bytes``, ``seconds``, ``device``, ``mode``…), so that a sentence
never has to. A code without words is shown as it is, with its values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from webapp.domain.audit import Action, Came, Detail, Group, Result
from webapp.domain.fit import Fit
from webapp.domain.footprint import Confidence, Note, PartName, Source
from webapp.domain.instance import InstanceState
from webapp.domain.lease import ReleaseAnswer
from webapp.domain.memory import LedgerKind, Level
from webapp.domain.modes import Mode, Precision
from webapp.domain.operation import OperationKind, OperationState, StepName, StepState
from webapp.domain.people import Role
from webapp.domain.plan import Verdict
from webapp.domain.postmortem import Cause, Phase
from webapp.domain.recommend import Mark
from webapp.domain.selftest import CheckMark, CheckName
from webapp.domain.timeline import EventMark, Span
from webapp.domain.waiting import TicketState
from webapp.message import Message, Param
from webapp.web import formats
from webapp.web.translate import gettext, plural


def N_(text: str) -> str:  # noqa: N802  gettext's name for a text that is translated later
    """Mark ``text`` for the catalogues."""
    return text


@dataclass(frozen=True)
class Sentence:
    """A text of the source language, with its plural where ``count`` names the value that counts."""

    one: str
    many: str | None = None
    count: str = ""

    def say(self, params: Mapping[str, Param]) -> str:
        """Return the text in the language in force, with ``params`` in it."""
        shown = _Shown({name: shown_param(name, value) for name, value in params.items()})
        if self.many is None:
            return gettext(self.one) % shown
        counted = params.get(self.count)
        return plural(self.one, self.many, counted if isinstance(counted, int) else 0) % shown


class _Shown(dict[str, str]):
    """Formatted values; one that the message does not carry is unknown."""

    def __missing__(self, name: str) -> str:
        return formats.unknown()


def _one(text: str) -> Sentence:
    return Sentence(text)


def _many(one: str, many: str, count: str = "count") -> Sentence:
    return Sentence(one, many, count)


def NN_(one: str, many: str) -> tuple[str, str]:  # noqa: N802
    """Mark a text and its plural for the catalogues."""
    return one, many


ERRORS: Final[Mapping[str, Sentence]] = {
    "error": _one(N_("Что-то пошло не так. Подробности в журнале сервера.")),
    "unexpected": _one(N_("Операция прервалась из-за ошибки в самой программе. Подробности в журнале сервера.")),
    "unexpected_named": _one(
        N_("Операция прервалась из-за ошибки в самой программе (%(detail)s). Подробности в журнале сервера.")
    ),
    "invalid": _one(N_("Поле «%(field)s» не может быть «%(value)s». Допустимо: %(allowed)s.")),
    "weak_password": _one(
        N_("Такой пароль не подойдёт: нужно от %(least)s до %(most)s знаков, и имени в нём быть не должно.")
    ),
    "unauthorized": _one(N_("Вход не выполнен или закончился. Войдите снова.")),
    "sign_in_failed": _one(N_("Имя и пароль не подошли друг другу. Проверьте раскладку и попробуйте ещё раз.")),
    "forbidden": _one(
        N_(
            "Для этого нужна роль «%(needed)s», а у вас «%(role)s». Роли меняет администратор на странице «Люди»: "
            "попросите его."
        )
    ),
    "not_yours": _one(
        N_("Этим распоряжаются пользователь %(owner)s и администратор. Попросите их или дождитесь, пока освободится.")
    ),
    "too_late": _one(N_("Выгрузка уже началась, остановить её нельзя. Модель можно загрузить снова.")),
    "in_person": _one(
        N_("Токен доступа этого не может: учётными записями управляют на странице, войдя по имени и паролю.")
    ),
    "unknown_person": _one(N_("Пользователя %(person)s здесь нет. Обновите страницу.")),
    "unknown_invitation": _one(
        N_("По этой ссылке уже вошли, или её срок закончился. Попросите у администратора новую.")
    ),
    "unknown_token": _one(N_("Токена с номером %(token)s нет: его уже отозвали. Обновите страницу.")),
    "name_in_use": _one(N_("Имя %(person)s уже занято. Выберите другое.")),
    "last_administrator": _one(
        N_("%(person)s — последний администратор, без него никто не сможет всего. Сначала назначьте другого.")
    ),
    "own_account": _one(N_("Свою роль не меняют, и себя не отключают и не удаляют: это делает другой администратор.")),
    "not_found": _one(N_("Такого здесь нет. Обновите страницу.")),
    "unknown_model": _one(N_("Модель не выбрана. Выберите модель из списка.")),
    "unknown_model_named": _one(
        N_("Модели %(model)s нет в кеше. Проверьте имя или скачайте её: список обновится сам за несколько секунд.")
    ),
    "unknown_instance": _one(N_("Модели с номером %(instance)s здесь уже нет: её выгрузили. Обновите страницу.")),
    "unknown_operation": _one(N_("Операции с номером %(operation)s нет. Проверьте адрес или найдите её в истории.")),
    "unknown_device": _one(N_("Устройства %(device)s на этом сервере нет. Есть: %(known)s.")),
    "refused": _one(N_("Сейчас этого сделать нельзя. Обновите страницу и посмотрите, что изменилось.")),
    "busy": _one(
        N_(
            "Сейчас идёт другая операция: %(kind)s, запустил пользователь %(actor)s в %(since)s. Дождитесь её конца или "
            "отмените её."
        )
    ),
    "busy_model": _one(
        N_(
            "Память занята другой операцией: %(kind)s %(model)s, шаг «%(step)s», запустил пользователь %(actor)s в "
            "%(since)s. "
            "Дождитесь её конца или отмените её."
        )
    ),
    "not_enough_memory": _one(
        N_(
            "Модели %(model)s не хватает памяти (%(device)s): нужно %(needed_bytes)s и запас %(reserve_bytes)s, "
            "доступно %(free_bytes)s, недостаёт %(missing_bytes)s. Выберите настройки или модель, которым нужно меньше."
        )
    ),
    "already_loaded": _one(
        N_("Модель %(model)s уже загружена с теми же настройками. Измените настройки или пользуйтесь загруженной.")
    ),
    "instance_in_use": _one(
        N_(
            "Неизвестно, отвечает ли сейчас на запросы модель %(model)s (владелец %(owner)s), поэтому она считается "
            "занятой. Попросите владельца освободить её."
        )
    ),
    "instance_in_use_counted": _one(
        N_(
            "Модель %(model)s (владелец %(owner)s) сейчас отвечает на запросы: %(in_flight)s. Дождитесь ответов; у своей "
            "модели их можно прервать, чужую — попросить освободить."
        )
    ),
    "instance_leased": _one(
        N_(
            "Модель %(model)s занята до %(until)s, владелец %(owner)s. Попросите освободить её или выберите другое место."
        )
    ),
    "instance_leased_for": _one(
        N_(
            "Модель %(model)s занята до %(until)s, владелец %(owner)s: «%(reason)s». Попросите освободить её или выберите "
            "другое место."
        )
    ),
    "confirmation_needed": _one(
        N_("Места хватит, только если выгрузить модели других пользователей: %(models)s. Подтвердите каждую.")
    ),
    "instance_stopping": _one(
        N_(
            "Модель %(model)s уже выгружается: менять аренду и договариваться о ней поздно. Если она нужна, загрузите её снова."
        )
    ),
    "cannot_end": _one(
        N_(
            "Модель %(model)s сейчас не завершить штатно и не вернуть, если загрузка не удастся: %(reason)s. Устраните "
            "причину или откажитесь от возврата прежних моделей. Ничего не изменено."
        )
    ),
    "idle_used_again": _one(N_("Моделью %(model)s снова пользуются, она остаётся.")),
    "lease_pending": _one(N_("Условия аренды модели %(model)s прямо сейчас записываются. Повторите через секунду.")),
    "not_owner": _one(N_("Модель %(model)s загружена не вами: это может сделать её владелец, %(owner)s.")),
    "release_pending": _one(
        N_("Модель %(model)s уже просит освободить пользователь %(asker)s. Дождитесь ответа владельца.")
    ),
    "nothing_asked": _one(N_("Освободить модель %(model)s никто не просит: на просьбу уже ответили.")),
    "cooling_down": _one(
        N_(
            "Модель %(model)s только что не загрузилась (неудач подряд: %(failures)s). Повторите через %(seconds)s или "
            "выберите "
            "другие настройки."
        )
    ),
    "mode_unavailable": _one(
        N_("Режим %(mode)s сейчас недоступен: %(reason)s. Ничего не изменено. Выберите другой режим.")
    ),
    "model_unsuitable": _one(
        N_("Модель %(model)s нельзя загрузить: %(reason)s. Выберите другую или исправьте её файлы в кеше.")
    ),
    "not_ready": _one(N_("Модель %(model)s не принимает запросы: %(state)s. Подождите, пока она будет готова.")),
    "nothing_to_restore": _one(N_("Загружать снова нечего: всё уже загружено или загружается. Обновите страницу.")),
    "not_cancellable": _one(N_("Отменять нечего: операция уже закончилась (%(state)s).")),
    "superseded": _one(N_("Операцию прервала экстренная очистка.")),
    "unavailable": _one(N_("Нужная часть программы не отвечает. Повторите через минуту.")),
    "device_unreadable": _one(
        N_("Показаниям памяти сейчас нельзя верить, поэтому загружать нельзя. Проверьте драйвер и повторите.")
    ),
    "device_unreadable_named": _one(
        N_(
            "Показаниям памяти (%(device)s) сейчас нельзя верить, поэтому загружать нельзя. Проверьте драйвер и "
            "повторите."
        )
    ),
    "store_unavailable": _one(
        N_("База данных не отвечает (%(reason)s). Загруженные модели работают; история появится, когда база вернётся.")
    ),
    "not_stored": _one(
        N_(
            "Warden не смог это сохранить (%(reason)s), поэтому ничего не сделано. Проверьте место на диске и базу данных "
            "и повторите."
        )
    ),
    "stopping": _one(N_("Программа завершает работу и новых операций не принимает. Повторите после её запуска.")),
    "too_many_questions": _one(
        N_(
            "Моделям уже задано столько вопросов, сколько страница может вести сразу (%(limit)s). Дождитесь одного из "
            "ответов."
        )
    ),
    "launch_failed": _one(
        N_(
            "Модель %(model)s не запустилась: %(detail)s. Её процесс не начал работу, поэтому журнала у модели нет; "
            "подробности в журнале сервера."
        )
    ),
    "launch_failed_logged": _one(
        N_("Модель %(model)s не запустилась: %(detail)s. Посмотрите последние строки её журнала.")
    ),
    "out_of_memory": _one(
        N_(
            "Модели %(model)s не хватило памяти (%(detail)s). Уменьшите число токенов или батч, возьмите модель легче "
            "или, в режиме Transformers, INT8 или 4 бита."
        )
    ),
    "worker_died": _one(
        N_(
            "Процесс модели %(model)s завершился сам (%(exit)s). Посмотрите последние строки журнала и загрузите модель "
            "снова."
        )
    ),
    "launch_stalled": _one(
        N_("Загрузка модели %(model)s не подаёт признаков жизни уже %(seconds)s и остановлена. Посмотрите её журнал.")
    ),
    "launch_too_slow": _one(
        N_(
            "Модель %(model)s загружалась %(seconds)s и не успела. Посмотрите её журнал или увеличьте "
            "WARDEN_LAUNCH_DEADLINE_S."
        )
    ),
    "cancelled_by_stop": _one(N_("Операцию прервала остановка программы. Повторите её после запуска.")),
    "worker_garbled": _one(
        N_(
            "Процесс модели %(model)s отвечает непонятно (%(detail)s) и остановлен. Проверьте настройку "
            "WARDEN_WORKER_COMMAND."
        )
    ),
    "server_garbled": _one(
        N_(
            "В контейнере модели %(model)s отвечает не vLLM или не та модель (%(detail)s), он остановлен. Проверьте "
            "WARDEN_VLLM_IMAGE, WARDEN_VLLM_ENTRYPOINT и WARDEN_VLLM_ARGS."
        )
    ),
    "worker_silent": _one(
        N_("Процесс модели %(instance)s не ответил за %(seconds)s. Подождите; если не поможет, выгрузите модель.")
    ),
    "worker_cut_off": _one(
        N_(
            "Папку модели (%(path)s) кто-то удалил: процесс %(pid)s работает, но спросить его нельзя. Выгрузите модель и "
            "загрузите её снова."
        )
    ),
    "generation_failed": _one(
        N_("Модель %(model)s не смогла ответить: %(detail)s. Измените вопрос или спросите ещё раз.")
    ),
    "stop_failed": _one(
        N_(
            "Процесс %(pid)s (пользователь %(user)s, состояние %(state)s) пережил все сигналы, память модели %(model)s "
            "занята. "
            "Завершите его вручную или перезагрузите сервер."
        )
    ),
    "cancelled": _one(N_("Операция отменена пользователем %(actor)s.")),
    "cancelled_by_emergency": _one(N_("Операцию прервала экстренная очистка, её начал пользователь %(actor)s.")),
    "probe_failed": _one(N_("Устройство «%(device)s» не удалось прочитать (%(detail)s). Проверьте драйвер.")),
    "driver_missing": _one(
        N_("Драйвера NVIDIA здесь нет, поэтому показана оперативная память. Если видеокарта есть, установите драйвер.")
    ),
    "driver_gone": _one(
        N_("Драйвер NVIDIA перестал отвечать (%(detail)s). Проверьте nvidia-smi; до этого цифр по видеокартам нет.")
    ),
    "device_lost": _one(
        N_("Видеокарта %(device)s отвалилась от шины (%(detail)s). Обычно помогает только перезагрузка сервера.")
    ),
    "not_supported": _one(N_("Драйвер не сообщает этой цифры (%(device)s: %(detail)s).")),
    "holders_unknown": _one(N_("Список процессов не прочитан (%(detail)s): кто держит память, неизвестно.")),
    "demo_failed": _one(
        N_("Демонстрационную модель создать не удалось: %(detail)s. Проверьте место и права в папке кеша.")
    ),
    "sandbox_failed": _one(
        N_("Отдельную копию для проверки не удалось создать или убрать: %(detail)s. Посмотрите журнал сервера.")
    ),
    "configuration": _one(N_("Программа не может работать с %(setting)s=%(value)s: %(detail)s. Исправьте настройку.")),
    "already_running": _one(
        N_("Папку состояния %(state_dir)s уже держит другая копия программы (процесс %(pid)s). Остановите её.")
    ),
    "cache_unreadable": _one(N_("Кеш моделей %(path)s не читается: %(detail)s. Проверьте папку и права на неё.")),
    "unknown_container": _one(
        N_("Контейнера %(container)s здесь уже нет, или он принадлежит самой панели. Обновите страницу.")
    ),
    "not_confirmed": _one(
        N_("Контейнер %(name)s чужой (владелец %(owner)s). Чтобы остановить его, введите его имя целиком.")
    ),
    "engine_unavailable": _one(N_("Docker сейчас не отвечает (%(socket)s). Проверьте службу docker и повторите.")),
    "engine_missing": _one(
        N_(
            "Docker на этом сервере не найден: сокета %(socket)s нет. Установите и запустите Docker или укажите сокет в "
            "WARDEN_DOCKER_SOCKET."
        )
    ),
    "engine_forbidden": _one(
        N_(
            "У пользователя %(user)s нет прав на сокет Docker %(socket)s. Добавьте его в группу docker и запустите "
            "панель заново."
        )
    ),
    "engine_unreachable": _one(
        N_(
            "Docker не отвечает (%(socket)s: %(detail)s). Проверьте службу docker; когда она вернётся, страница узнает "
            "сама."
        )
    ),
    "engine_failed": _one(
        N_(
            "Docker ответил ошибкой (%(socket)s: %(detail)s). Посмотрите журнал службы docker; когда ошибка уйдёт, "
            "страница узнает сама."
        )
    ),
    "unknown_ticket": _one(N_("Заявки с номером %(ticket)s здесь уже нет. Обновите страницу.")),
    "queue_full": _one(
        N_("Места ждёт уже столько заявок, сколько можно (%(limit)s). Подайте свою, когда одна из них уйдёт.")
    ),
    "already_waiting": _one(N_("Эта заявка уже ждёт: %(model)s, место в очереди — %(place)s.")),
    "cannot_wait": _one(
        N_(
            "Ждать бесполезно: модели %(model)s нужно %(needed_bytes)s вместе с запасом, а свободного устройства целиком "
            "хватит лишь на %(most_bytes)s. Выберите более лёгкий вариант."
        )
    ),
    "ticket_ended": _one(
        N_("Заявка на модель %(model)s больше не ждёт: она уже запускается, запущена или снята. Обновите страницу.")
    ),
    "foreign_ticket": _one(N_("Это заявка пользователя %(actor)s. Снять или запустить её может он или администратор.")),
    "launch_blocked": _one(
        N_("Модель %(model)s не запущена: сервер к этому не готов (%(detail)s). Устраните причину и повторите.")
    ),
    "disk_full": _one(
        N_(
            "Модель %(model)s не запущена: на диске %(mount)s кончилось место, и %(path)s не записать. Освободите место "
            "(df -h %(mount)s) и повторите."
        )
    ),
    "disk_read_only": _one(
        N_(
            "Модель %(model)s не запущена: файловая система %(mount)s доступна только для чтения, и %(path)s не записать. "
            "Перемонтируйте её для записи или укажите другую папку в WARDEN_STATE_DIR."
        )
    ),
    "too_many_files": _one(
        N_(
            "Модель %(model)s не запущена: открыто предельное число файлов и соединений (%(limit)s). Закройте лишние "
            "страницы или увеличьте предел: ulimit -n, в службе systemd LimitNOFILE."
        )
    ),
    "too_many_processes": _one(
        N_(
            "Модель %(model)s не запущена: достигнут предел числа процессов. Завершите лишние или увеличьте предел: "
            "ulimit -u, в службе systemd TasksMax."
        )
    ),
    "load_fenced": _one(
        N_(
            "Загрузка модели %(model)s остановлена заранее: ей не хватило бы памяти (%(device)s). Память занял сосед — "
            "%(who)s, +%(grown_bytes)s. Модели нужно ещё %(needed_bytes)s, доступно %(free_bytes)s. Повторите позже или "
            "запросите меньше."
        )
    ),
    "image_missing": _one(N_("Образа %(image)s на этом сервере нет. Скачайте его командой «%(command)s» и повторите.")),
    "gpu_runtime_missing": _one(
        N_(
            "Docker не может дать модели %(model)s видеокарту (%(detail)s). Установите NVIDIA Container Toolkit, "
            "перезапустите Docker и повторите."
        )
    ),
    "port_taken": _one(
        N_(
            "Модели %(model)s не досталось порта: все порты %(ports)s заняты. Освободите один из них или расширьте "
            "WARDEN_VLLM_PORTS."
        )
    ),
    "port_lost": _one(
        N_(
            "Порт %(port)s занял кто-то другой, пока запускалась модель %(model)s. Загрузите её ещё раз: порт будет другим."
        )
    ),
    "name_taken": _one(
        N_(
            "Имя %(name)s, нужное модели %(model)s, занято другим контейнером. Удалите его (docker rm %(name)s) и "
            "повторите."
        )
    ),
    "profile_disturbed": _one(
        N_(
            "Пока vLLM измерял память для модели %(model)s, её изменил соседний процесс: было доступно %(before_bytes)s, "
            "стало %(after_bytes)s. Дождитесь, пока сосед успокоится, и повторите."
        )
    ),
    "start_memory_short": _one(
        N_(
            "vLLM отказался запускать модель %(model)s: доступно %(free_bytes)s из %(total_bytes)s, а занять он должен "
            "%(wanted_bytes)s. Освободите память или уменьшите число токенов и батч."
        )
    ),
    "kv_cache_too_small": _one(
        N_(
            "Модели %(model)s не хватает кеша KV даже на один запрос (токенов: %(max_tokens)s): нужно %(needed_bytes)s, "
            "есть %(available_bytes)s. Уменьшите число токенов."
        )
    ),
    "kv_cache_too_small_fits": _one(
        N_(
            "Модели %(model)s не хватает кеша KV даже на один запрос (токенов: %(max_tokens)s): нужно %(needed_bytes)s, "
            "есть %(available_bytes)s. Уменьшите число токенов до %(fits_tokens)s."
        )
    ),
    "architecture_unsupported": _one(
        N_(
            "vLLM не знает архитектуры %(architecture)s, модель %(model)s не запущена. Загрузите её в режиме "
            "Transformers или возьмите образ новее (WARDEN_VLLM_IMAGE)."
        )
    ),
    "argument_rejected": _one(
        N_(
            "vLLM не принял аргумент %(argument)s (%(detail)s), модель %(model)s не запущена. Исправьте WARDEN_VLLM_ARGS "
            "или возьмите другой образ (WARDEN_VLLM_IMAGE)."
        )
    ),
    "context_too_long": _one(
        N_(
            "Модель %(model)s не рассчитана на %(max_tokens)s токенов и не запущена. Уменьшите число токенов: предел "
            "назван в конце её журнала."
        )
    ),
    "context_too_long_limit": _one(
        N_(
            "Модель %(model)s не рассчитана на %(max_tokens)s токенов и не запущена. Уменьшите число токенов до "
            "%(limit_tokens)s."
        )
    ),
    "container_removed": _one(
        N_(
            "Контейнер модели %(model)s удалил кто-то другой. Узнайте кто (docker events) и загрузите модель снова, если "
            "она ещё нужна."
        )
    ),
    "container_exited": _one(
        N_(
            "Контейнер модели %(model)s завершился сам (код или сигнал: %(exit)s). Посмотрите последние строки журнала и "
            "загрузите модель снова."
        )
    ),
}
"""Failures, by the code of their class or of their message."""

MODELS: Final[Mapping[str, Sentence]] = {
    "model_incomplete": _one(N_("скачана не до конца, не хватает: %(missing)s; скачайте её ещё раз")),
    "model_no_weights": _one(N_("в снимке нет весов; скачайте модель ещё раз")),
    "model_no_config": _one(N_("нет config.json; скачайте модель ещё раз")),
    "model_broken_config": _one(N_("config.json не читается: %(detail)s; скачайте модель ещё раз")),
    "model_broken_weights": _one(N_("файл весов %(file)s повреждён: %(detail)s; скачайте его ещё раз")),
    "model_pickle_only": _one(N_("веса только в pickle, а он может выполнить код; разрешает WARDEN_ALLOW_PICKLE")),
    "model_remote_code": _one(N_("требует выполнить код из репозитория модели; разрешает WARDEN_ALLOW_REMOTE_CODE")),
    "model_not_causal": _one(N_("не генерирует текст (%(architecture)s); нужна языковая модель")),
    "model_no_tokenizer": _one(N_("нет токенизатора; скачайте модель целиком")),
    "model_unreadable": _one(N_("файлы не читаются: %(detail)s; проверьте права на кеш")),
    "model_misread": _one(
        N_(
            "Warden не смог разобрать модель %(model)s (%(detail)s): это ошибка программы, подробности в её журнале; "
            "скачайте модель ещё раз или удалите её из кеша"
        )
    ),
}
"""Why a cached model cannot be loaded: clauses that stand after a colon."""

REASONS: Final[Mapping[str, Sentence]] = {
    "worker_command_missing": _one(N_("программы из WARDEN_WORKER_COMMAND на этом сервере нет")),
    "folder_broken": _one(N_("её папка повреждена")),
    "files_gone": _one(N_("её файлов больше нет в кеше")),
    "revision_gone": _one(N_("в кеше теперь другая ревизия")),
    "half_started": _one(N_("она не успела запуститься")),
    "launch_too_slow": _one(N_("она загружалась слишком долго")),
    "model_pickle_only": _one(N_("веса только в pickle, а он может выполнить код")),
    "model_remote_code": _one(N_("требует выполнить код из репозитория модели")),
    "model_no_tokenizer": _one(N_("нет токенизатора")),
    "vllm_not_installed": _one(N_("режим vLLM ещё не подключён на этом сервере")),
    "model_incomplete": _one(N_("она скачана не до конца")),
    "model_no_weights": _one(N_("в снимке нет весов")),
    "model_no_config": _one(N_("нет config.json")),
    "model_broken_config": _one(N_("config.json не читается")),
    "model_broken_weights": _one(N_("файл весов повреждён")),
    "model_not_causal": _one(N_("она не генерирует текст")),
    "model_unreadable": _one(N_("её файлы не читаются")),
    "model_misread": _one(N_("Warden не смог её разобрать")),
    "out_of_memory": _one(N_("не хватило памяти")),
    "launch_failed": _one(N_("она не запустилась")),
    "launch_stalled": _one(N_("загрузка замерла")),
    "worker_died": _one(N_("её процесс завершился сам")),
    "worker_garbled": _one(N_("её процесс отвечает непонятно")),
    "server_garbled": _one(N_("в её контейнере отвечает не vLLM")),
    "worker_silent": _one(N_("её процесс не отвечает")),
    "worker_cut_off": _one(N_("её папку удалили")),
    "unknown_instance": _one(N_("её уже нет")),
    "unknown_model": _one(N_("её нет в кеше")),
    "not_enough_memory": _one(N_("для неё не хватает памяти")),
    "device_unreadable": _one(N_("показаниям устройства нельзя верить")),
    "stop_failed": _one(N_("её процесс пережил все сигналы")),
    "engine_unavailable": _one(N_("Docker не отвечает")),
    "engine_missing": _one(N_("Docker на этом сервере не найден")),
    "engine_forbidden": _one(N_("нет прав на сокет Docker")),
    "engine_unreachable": _one(N_("Docker не отвечает")),
    "engine_failed": _one(N_("Docker отвечает ошибкой")),
    "disk_full": _one(N_("на диске кончилось место")),
    "disk_read_only": _one(N_("диск доступен только для чтения")),
    "too_many_files": _one(N_("открыто предельное число файлов")),
    "too_many_processes": _one(N_("достигнут предел числа процессов")),
    "load_fenced": _one(N_("её память занял сосед")),
    "image_missing": _one(N_("образа vLLM на этом сервере нет")),
    "gpu_runtime_missing": _one(N_("Docker не может дать контейнеру видеокарту")),
    "port_taken": _one(N_("все порты для контейнеров заняты")),
    "port_lost": _one(N_("её порт занял кто-то другой")),
    "name_taken": _one(N_("имя её контейнера занято")),
    "profile_disturbed": _one(N_("измерению памяти помешал соседний процесс")),
    "start_memory_short": _one(N_("при запуске не хватило свободной памяти")),
    "kv_cache_too_small": _one(N_("кеш KV не вмещает и одного запроса")),
    "architecture_unsupported": _one(N_("vLLM не знает её архитектуры")),
    "argument_rejected": _one(N_("vLLM не принял аргумент")),
    "context_too_long": _one(N_("она не рассчитана на столько токенов")),
    "container_removed": _one(N_("её контейнер удалил кто-то другой")),
    "container_exited": _one(N_("её контейнер завершился сам")),
}
"""The same as clauses without values, for a message that carries only another's code."""

PLANS: Final[Mapping[str, Sentence]] = {
    "plan_fits": _one(N_("%(device)s: нужно %(needed_bytes)s, доступно будет %(free_bytes)s, места достаточно.")),
    "plan_tight": _one(
        N_(
            "%(device)s: нужно %(needed_bytes)s из %(free_bytes)s, поместится впритык, запас %(reserve_bytes)s "
            "останется цел."
        )
    ),
    "plan_spread": _one(
        N_(
            "На одном устройстве нужно %(needed_bytes)s, а на %(device)s доступно %(free_bytes)s: модель делится между "
            "%(devices)s."
        )
    ),
    "plan_spread_in_use": _one(
        N_("На %(device)s сейчас отвечает другая модель, поэтому эта делится между %(devices)s.")
    ),
    "plan_spread_claimed": _one(
        N_("На %(device)s сейчас идёт другая операция, поэтому эта модель делится между %(devices)s.")
    ),
    "plan_spread_leased": _one(N_("На %(device)s модель другого человека, поэтому эта делится между %(devices)s.")),
    "plan_spread_others": _one(
        N_("На %(device)s пришлось бы выгрузить чужую модель, поэтому эта делится между %(devices)s.")
    ),
    "plan_estimate_rough": _one(N_("%(device)s: оценка грубая, файлы модели говорят не обо всём.")),
    "plan_measured": _many(
        *NN_(
            "%(device)s: измерено здесь %(count)s раз, ±%(spread_percent)s\u00a0%%.",
            "%(device)s: измерено здесь %(count)s раза, ±%(spread_percent)s\u00a0%%.",
        )
    ),
    "plan_measured_once": _one(N_("%(device)s: измерено здесь 1 раз.")),
    "plan_measured_otherwise": _many(
        *NN_(
            "%(device)s: уточнено по %(count)s загрузке с другим контекстом или батчем, ±%(spread_percent)s\u00a0%%.",
            "%(device)s: уточнено по %(count)s загрузкам с другим контекстом или батчем, ±%(spread_percent)s\u00a0%%.",
        )
    ),
    "plan_measured_otherwise_once": _one(N_("%(device)s: уточнено по 1 загрузке с другим контекстом или батчем.")),
    "plan_device_claimed": _one(N_("%(device)s: сейчас идёт операция, применить можно будет после неё.")),
    "plan_load_anyway": _one(
        N_(
            "%(device)s: по оценке нужно %(needed_bytes)s и запас %(reserve_bytes)s, доступно %(free_bytes)s, недостаёт "
            "%(missing_bytes)s. Загрузка вопреки оценке может кончиться нехваткой памяти."
        )
    ),
    "plan_promised": _one(N_("%(device)s: ещё %(promised_bytes)s обещаны моделям, которые загружаются.")),
    "plan_no_return": _one(N_("Если загрузка не удастся, модель %(model)s не вернуть: %(reason)s.")),
    "plan_stuck_holds": _one(N_("Модель %(model)s не завершается и держит %(held_bytes)s: эта память не вернётся.")),
    "context_capped": _one(N_("Модель рассчитана на %(max_tokens)s токенов, поэтому вместо %(asked)s будет столько.")),
    "way_out_unload_others": _one(N_("Выгрузить остальные")),
    "way_out_other_device": _one(N_("Другое устройство")),
    "way_out_devices": _one(N_("Разделить между %(devices)s")),
    "way_out_mode": _one(N_("Режим %(mode)s")),
    "way_out_batch": _one(N_("Батч %(batch_size)s")),
    "way_out_tokens": _many(*NN_("%(max_tokens)s токен", "%(max_tokens)s токенов"), "max_tokens"),
    "way_out_tokens_batch": _many(
        *NN_("%(max_tokens)s токен, батч %(batch_size)s", "%(max_tokens)s токенов, батч %(batch_size)s"), "max_tokens"
    ),
    "way_out_unload": _one(N_("Выгрузить %(model)s (%(owner)s, простаивает %(idle_s)s)")),
    "way_out_unload_busy": _one(N_("Выгрузить %(model)s (%(owner)s, ответы могут прерваться)")),
    "way_out_unload_busy_counted": _many(
        *NN_(
            "Выгрузить %(model)s (%(owner)s, прервав %(in_flight)s ответ)",
            "Выгрузить %(model)s (%(owner)s, прервав %(in_flight)s ответов)",
        ),
        "in_flight",
    ),
    "way_out_unload_two": _one(
        N_(
            "Выгрузить %(model)s (%(owner)s, простаивает %(idle_s)s) и %(other_model)s (%(other_owner)s, простаивает "
            "%(other_idle_s)s)"
        )
    ),
    "way_out_precision": _one(N_("Точность %(precision)s")),
    "way_out_smallest": _one(N_("%(precision)s, токенов %(max_tokens)s, батч %(batch_size)s")),
    "advice_free": _one(N_("доступно %(free_bytes)s")),
    "advice_mode_short": _one(N_("в режиме %(mode)s не поместится")),
    "advice_precision_short": _one(N_("в %(precision)s не поместится")),
    "advice_tokens_short": _many(
        *NN_("на %(max_tokens)s токен памяти не хватит", "на %(max_tokens)s токенов памяти не хватит"), "max_tokens"
    ),
    "advice_batch_short": _one(N_("на батч %(batch_size)s памяти не хватит")),
    "advice_quantized": _one(N_("файлы уже квантованы (%(method)s)")),
    "advice_context": _many(
        *NN_("модель рассчитана на %(max_tokens)s токен", "модель рассчитана на %(max_tokens)s токенов"), "max_tokens"
    ),
    "advice_nothing": _one(
        N_("не поместится даже это: нужно %(needed_bytes)s и запас %(reserve_bytes)s, не хватает %(missing_bytes)s")
    ),
    "advice_vllm_unavailable": _one(N_("при такой памяти подошёл бы vLLM")),
}

STEPS: Final[Mapping[str, Sentence]] = {
    "planned": _one(N_("нужно %(needed_bytes)s")),
    "stopped": _one(N_("%(models)s")),
    "stop_ask": _one(N_("прошу %(model)s завершиться")),
    "stop_terminate": _one(N_("%(model)s не уходит: SIGTERM")),
    "creating_vllm": _one(N_("образ на месте, создаю контейнер")),
    "creating_transformers": _one(N_("запускаю процесс")),
    "stop_container": _one(N_("прошу контейнер %(model)s завершиться (SIGTERM)")),
    "stop_kill": _one(N_("%(model)s не уходит: SIGKILL")),
    "stop_verify": _one(N_("проверяю, что от %(model)s ничего не осталось")),
    "stop_unproved": _one(N_("нет доказательства, что процесс завершён; нажмите «Экстренная очистка»")),
    "rollback_settling": _one(N_("жду возврата памяти")),
    "settle_slow": _one(N_("память возвращается медленнее обычного")),
    "grace_over": _one(N_("никто не остановил")),
    "settled": _one(N_("+%(freed_bytes)s")),
    "settle_unknown": _one(N_("устройство не читается")),
    "settle_late": _one(N_("только +%(freed_bytes)s из %(expected_bytes)s")),
    "reaped": _many(*NN_("%(count)s остаток", "%(count)s остатков")),
    "checked": _one(N_("%(free_bytes)s ≥ %(needed_bytes)s")),
    "checked_overruled": _one(N_("недостаёт %(missing_bytes)s, загружаю вопреки оценке")),
    "launch_starting": _one(N_("процесс запускается")),
    "launch_loading": _one(N_("веса загружаются")),
    "launched": _one(N_("веса загружены")),
    "ready_after": _one(N_("отвечает")),
    "measured": _one(N_("занято %(measured_bytes)s")),
    "measured_as_expected": _one(N_("занято %(measured_bytes)s, на старте ожидалось %(expected_bytes)s")),
    "measured_unknown": _one(N_("измерить не удалось, ожидалось %(predicted_bytes)s")),
    "cleaned": _many(*NN_("%(count)s запись", "записей: %(count)s")),
    "cleaned_free": _one(N_("доступно %(free_bytes)s")),
    "ended": _many(*NN_("завершён %(count)s", "завершено: %(count)s")),
    "ended_late": _many(*NN_("догнан ещё %(count)s", "догнано ещё: %(count)s")),
    "demo_made": _one(N_("файлы записаны")),
    "vllm_creating": _one(N_("контейнер создаётся")),
    "vllm_starting": _one(N_("контейнер работает, vLLM запускается")),
    "vllm_weights": _one(N_("веса загружаются")),
    "vllm_weights_percent": _one(N_("веса загружаются: %(percent)s %%")),
    "vllm_profiling": _one(N_("vLLM прогревается и измеряет память")),
    "vllm_kv_cache": _one(N_("кеш KV готов")),
    "vllm_kv_cache_sized": _one(N_("кеш KV: токенов %(tokens)s, %(kv_cache_bytes)s")),
    "vllm_graphs": _one(N_("записываются графы CUDA")),
    "vllm_graphs_percent": _one(N_("записываются графы CUDA: %(percent)s %%")),
    "vllm_serving": _one(N_("сервер поднят, жду ответа модели")),
}
"""What a step has to say, short: it stands under the step's name."""

OUTCOMES: Final[Mapping[str, Sentence]] = {
    "switch_done": _one(N_("Модель %(model)s готова отвечать: %(mode)s, %(seconds)s.")),
    "unload_done": _one(N_("Модель %(model)s выгружена: вернулось %(freed_bytes)s за %(seconds)s.")),
    "unload_unknown": _one(
        N_(
            "Модель %(model)s завершена. Сколько памяти вернулось, неизвестно: устройство не читается. Проверьте "
            "драйвер, цифры "
            "появятся сами."
        )
    ),
    "unload_held": _one(
        N_(
            "Модель %(model)s завершена, но вернулось только %(freed_bytes)s из %(expected_bytes)s за %(seconds)s. Кто "
            "держит "
            "остальное, видно на карточке памяти."
        )
    ),
    "clean_done": _one(N_("Память очищена: вернулось %(freed_bytes)s, доступно %(free_bytes)s.")),
    "emergency_done": _many(
        *NN_(
            "Экстренная очистка закончена: завершён %(count)s процесс, вернулось %(freed_bytes)s.",
            "Экстренная очистка закончена: завершено процессов: %(count)s, вернулось %(freed_bytes)s.",
        )
    ),
    "emergency_incomplete": _one(
        N_(
            "Экстренная очистка закончена не до конца: завершено %(count)s, вернулось %(freed_bytes)s из "
            "%(expected_bytes)s. "
            "Что осталось, перечислено ниже."
        )
    ),
    "demo_done": _one(N_("Демонстрационная модель %(model)s лежит в кеше. Выберите её и загрузите.")),
    "nothing_changed": _one(N_("На сервере всё осталось как было.")),
    "loaded_anyway": _one(
        N_(
            "%(model)s: загрузка вопреки оценке, так решил пользователь %(actor)s (%(device)s, недостаёт "
            "%(missing_bytes)s)"
        )
    ),
    "rolled_back": _one(N_("Прежние модели загружены снова: %(models)s.")),
    "restore_failed": _one(
        N_(
            "Вернуть не удалось: %(models)s. Причины указаны в результате по пунктам; когда они устранены, нажмите "
            "«Загрузить снова»."
        )
    ),
    "restore_begun": _one(N_("%(models)s: повторная загрузка начата, её запустил пользователь %(actor)s")),
    "restore_not_needed": _one(N_("%(model)s: уже загружена")),
    "restore_revision_gone": _one(
        N_("%(model)s: не вернуть, ревизии %(revision)s в кеше больше нет; другая ревизия сама не загружается")
    ),
    "not_restored_by_choice": _one(N_("Прежние модели не возвращены, как и было выбрано: %(models)s.")),
    "switch_done_memory_held": _one(
        N_(
            "Модель %(model)s готова отвечать: %(mode)s, %(seconds)s. От прежней вернулось только %(freed_bytes)s из "
            "%(expected_bytes)s."
        )
    ),
    "ended_early": _one(N_("Операция остановлена на полпути. Проверьте, что загружено.")),
    "taken_over": _one(N_("Остальное сделала экстренная очистка.")),
    "rollback_cancelled": _one(N_("Возврат прежних моделей прерван. Проверьте, что загружено.")),
    "undo_failed": _one(N_("Вернуть всё как было не удалось (%(detail)s). Нажмите «Очистить память».")),
    "unloaded_not_waited": _one(N_("Модель %(model)s завершена; возврата памяти не дождались.")),
    "abandoned": _one(N_("Программа остановилась посреди операции; при запуске остатки убраны.")),
    "adopted": _one(N_("%(model)s: работала без нас и принята обратно")),
    "found_dead": _one(N_("%(model)s: завершилась, пока панель не работала: %(reason)s")),
    "removed_half_started": _one(N_("%(model)s: не успела запуститься, остатки убраны")),
    "removal_failed": _one(N_("%(model)s: остатки убрать не удалось; нажмите «Экстренная очистка»")),
    "restored": _one(N_("%(model)s: загружена снова")),
    "restore_model_gone": _one(N_("%(model)s: не вернуть, её больше нет в кеше")),
    "restore_no_memory": _one(N_("%(model)s: не вернуть, не хватает %(missing_bytes)s")),
    "restore_failed_because": _one(N_("%(model)s: не вернуть, %(code)s")),
    "stuck_cleared": _one(N_("Модель %(model)s завершилась, от неё ничего не осталось; запись убрана.")),
    "dead_removed": _one(N_("%(model)s: завершилась раньше, запись убрана")),
    "dead_not_removed": _one(N_("%(model)s: завершилась раньше, но остатки убрать не удалось")),
    "clean_worker": _one(N_("%(model)s: вернула %(freed_bytes)s")),
    "clean_failed": _one(N_("%(model)s: не очищена, %(code)s")),
    "stays_foreign": _one(
        N_("%(device)s: остаётся чужой процесс %(pid)s (%(user)s, %(command)s), держит %(used_bytes)s")
    ),
    "stays_unattributed": _one(N_("%(device)s: %(used_bytes)s заняты, но не принадлежат ни одному видимому процессу")),
    "leftover_process": _one(N_("%(instance)s: процесс %(pid)s без модели")),
    "leftover_folder": _one(N_("%(instance)s: папка без модели")),
    "ended_instance": _one(N_("%(name)s: завершена")),
    "ended_not_removed": _one(
        N_("%(name)s: завершена, память свободна; контейнер Docker ещё не убрал, он будет убран сам")
    ),
    "ended_unlisted": _one(N_("%(name)s: процесс без записи завершён")),
    "end_failed": _one(N_("%(name)s: завершить не удалось (%(detail)s); завершите процесс вручную")),
    "runtime_unreachable": _one(N_("режим %(mode)s не отвечает: что в нём осталось, неизвестно")),
    "instance_vanished": _one(N_("процесс модели %(model)s исчез: его завершил кто-то другой или система")),
    "container_ended": _one(N_("Контейнер %(name)s остановлен. Памяти устройств он не держал.")),
    "container_ended_freed": _one(N_("Контейнер %(name)s остановлен: вернулось %(freed_bytes)s за %(seconds)s.")),
    "container_ended_held": _one(
        N_(
            "Контейнер %(name)s остановлен, но вернулось только %(freed_bytes)s из %(expected_bytes)s за %(seconds)s. "
            "Кто держит остальное, видно на карточке памяти."
        )
    ),
    "container_not_waited": _one(N_("Контейнер %(name)s остановлен; возврата памяти не дождались.")),
    "launch_again_disturbed": _one(
        N_(
            "%(model)s: измерению памяти помешал сосед (было доступно %(before_bytes)s, стало %(after_bytes)s), запускаю "
            "ещё раз"
        )
    ),
    "container_not_removed": _one(
        N_(
            "%(model)s: завершена, но контейнер %(name)s Docker ещё не убрал; он будет убран сам, когда Docker это позволит"
        )
    ),
    "launch_again_port": _one(N_("%(model)s: порт %(port)s занял кто-то другой, запускаю ещё раз на другом")),
    "leftover_container": _one(N_("%(name)s: контейнер без модели")),
    "stays_container": _one(N_("остаётся чужой контейнер %(name)s (владелец %(user)s, образ %(image)s)")),
    "not_reached": _one(N_("%(name)s: режим %(mode)s не отвечает, завершить не удалось; повторите, когда он ответит")),
}
"""How an operation ended, and the lines of its result."""

WEB: Final[Mapping[str, Sentence]] = {
    "bad_request": _one(N_("Запрос не разобрать. Вернитесь на главную страницу и повторите.")),
    "bad_json": _one(N_("Тело запроса не JSON (%(detail)s). Пришлите объект JSON.")),
    "too_many_attempts": _one(
        N_(
            "Слишком много неудачных попыток под этим именем или с этого адреса. Повторите через минуту, а если не поможет, "
            "через четверть часа."
        )
    ),
    "untrusted_host": _one(
        N_(
            "Страницу открыли под именем, которое не указано в WARDEN_TRUSTED_HOSTS. Откройте её как http://127.0.0.1 "
            "или добавьте имя."
        )
    ),
    "cross_site": _one(N_("Запрос пришёл со страницы другого сайта и отклонён. Откройте панель напрямую и повторите.")),
    "form_for_json": _one(
        N_(
            "Сюда принимается только JSON: укажите Content-Type: application/json. Тип формы отклонён, его шлют чужие "
            "сайты."
        )
    ),
    "csrf": _one(N_("Защитная метка формы не подошла. Обновите страницу (cookie должны быть включены) и повторите.")),
    "method_not_allowed": _one(N_("Этот адрес не принимает такой метод запроса.")),
    "too_large": _one(N_("Запрос слишком велик: принимается до 256 KiB. Сократите его.")),
    "no_uploads": _one(N_("Файлы здесь не принимаются.")),
    "unsupported_type": _one(N_("Такой тип данных здесь не принимается. Пришлите application/json.")),
}
"""What the web layer itself refuses."""

LEASES: Final[Mapping[str, Sentence]] = {
    "release_kept": _one(N_("Владелец %(owner)s оставляет модель %(model)s себе.")),
    "release_kept_word": _one(N_("Владелец %(owner)s оставляет модель %(model)s себе: «%(word)s».")),
    "release_given": _one(N_("Владелец %(owner)s освобождает для вас модель %(model)s: её место можно занять.")),
    "release_given_word": _one(
        N_("Владелец %(owner)s освобождает для вас модель %(model)s: её место можно занять. «%(word)s».")
    ),
    "release_given_silently": _one(
        N_("Владелец %(owner)s не отвечает, а модель %(model)s простаивает и аренды нет: её место можно занять.")
    ),
    "released_in_silence": _one(
        N_(
            "Пользователь %(asker)s просил освободить модель %(model)s. Ответа не было, модель простаивала, поэтому теперь "
            "её место можно занять."
        )
    ),
    "unloaded_by": _one(
        N_("Ваша модель %(model)s выгружена, это сделал пользователь %(actor)s: она простаивала и не была арендована.")
    ),
    "unloaded_for": _one(
        N_(
            "Ваша модель %(model)s выгружена: пользователь %(actor)s загружает на её место %(new_model)s. Она простаивала "
            "и не была арендована."
        )
    ),
    "lease_overridden": _one(
        N_("Администратор %(actor)s забирает место модели %(model)s у пользователя %(owner)s: «%(reason)s».")
    ),
    "unloaded_idle": _one(N_("Модель %(model)s выгружается: ею не пользовались %(idle_s)s.")),
}
"""What people are told of models that change hands, and of idle ones."""

KEEPING: Final[Mapping[str, Sentence]] = {
    "keeping_locked": _one(
        N_(
            "Warden не может сохранять новое: файл базы данных %(file)s занят другим процессом. Найдите и завершите его: "
            "fuser -v %(file)s."
        )
    ),
    "keeping_full": _one(
        N_("Warden не может сохранять новое: на диске, где лежит %(file)s, закончилось место. Освободите место.")
    ),
    "keeping_gone": _one(
        N_(
            "Warden не может сохранять новое: файл базы данных %(file)s пропал, и создать его заново не удаётся "
            "(%(detail)s). Верните папку и права на неё."
        )
    ),
    "keeping_slow": _one(
        N_("Warden не может сохранять новое: база данных отвечает дольше секунды. Проверьте диск и нагрузку на сервер.")
    ),
    "keeping_failed": _one(N_("Warden не может сохранять новое: база данных отвечает ошибкой (%(detail)s).")),
    "keeping_lost": _many(
        *NN_(
            "Не поместилась в память и потеряна %(count)s запись.",
            "Не поместились в память и потеряны записи: %(count)s.",
        )
    ),
    "store_locked": _one(N_("файл базы данных занят другим процессом")),
    "store_full": _one(N_("на диске закончилось место")),
    "store_gone": _one(N_("файл базы данных пропал")),
    "store_slow": _one(N_("база данных отвечает дольше секунды")),
    "store_failed": _one(N_("база данных отвечает ошибкой")),
}
"""Why Warden cannot keep what it is told."""

SELFTEST: Final[Mapping[str, Sentence]] = {
    "selftest_checking": _one(N_("%(check)s")),
    "selftest_checked": _many(*NN_("%(count)s пункт", "пунктов: %(count)s")),
    "selftest_done": _many(
        *NN_("Всё работает: пройдена %(count)s проверка.", "Всё работает: пройдено проверок: %(count)s.")
    ),
    "selftest_done_warnings": _many(
        *NN_("Работает, но есть %(count)s замечание.", "Работает, но есть замечания: %(count)s.")
    ),
    "selftest_done_failed": _many(
        *NN_(
            "Не пройдена %(count)s проверка. Рядом с ней написано, что делать.",
            "Не пройдено проверок: %(count)s. Рядом с каждой написано, что делать.",
        )
    ),
    "selftest_skipped": _one(N_("не проверялось: сначала нужен пункт «%(check)s»")),
    "selftest_readings_late": _one(
        N_("пришло показаний: %(count)s из %(asked)s, последнему %(age_s)s: драйвер отвечает слишком медленно")
    ),
    "selftest_readings_stuck": _one(N_("показания не обновляются: время у них одно и то же")),
    "selftest_no_figures": _one(N_("%(device)s: драйвер не сообщил, сколько памяти всего и свободно")),
    "selftest_ledger_off": _one(N_("%(device)s: части не складываются в целое, расхождение %(off_bytes)s")),
    "selftest_witness_off": _one(N_("%(device)s: панель видит свободными %(free_bytes)s, система — %(other_bytes)s")),
    "selftest_memory_ok": _one(
        N_("%(devices)s: всего %(total_bytes)s, сходится до байта; показаний %(count)s, последнему %(age_s)s")
    ),
    "selftest_state_unwritable": _one(N_("в папку %(folder)s нельзя писать: %(detail)s")),
    "selftest_not_kept": _one(N_("операция записана в базу, но обратно не читается")),
    "selftest_state_open": _one(N_("папка %(folder)s открыта другим пользователям (права %(bits)s)")),
    "selftest_files_open": _one(N_("другие пользователи могут прочитать файлы: %(files)s")),
    "selftest_state_ok": _one(N_("папка %(folder)s доступна для записи и закрыта для других; база отвечает")),
    "selftest_advice_wrong": _one(N_("для %(free_bytes)s рекомендация не та, что в таблице")),
    "selftest_advice_unknown": _one(
        N_("таблица верна (точек: %(count)s), но свободная память сейчас неизвестна, и совета нет")
    ),
    "selftest_advice_ok": _one(
        N_(
            "таблица верна (точек: %(count)s); для %(free_bytes)s: %(mode)s, %(precision)s, токенов %(max_tokens)s, "
            "батч %(batch_size)s"
        )
    ),
    "selftest_vllm_ok": _one(N_("режим можно выбрать: Docker отвечает, образ на месте")),
    "selftest_vllm_unavailable": _one(N_("режим выбрать нельзя: %(reason)s; режим Transformers работает и без него")),
    "selftest_model_ok": _one(N_("модель %(model)s (%(size_bytes)s) создана и найдена в кеше")),
    "selftest_model_missing": _one(N_("модель создана, но в списке не появилась")),
    "selftest_no_room": _one(
        N_(
            "рядом с загруженным не поместится (%(device)s): нужно %(needed_bytes)s и запас %(reserve_bytes)s, доступно "
            "%(free_bytes)s; ничего не тронуто"
        )
    ),
    "selftest_elsewhere": _one(N_("в этой папке состояния уже идёт другая проверка")),
    "selftest_not_ready": _one(N_("переключение закончилось, но модель не готова")),
    "selftest_switch_ok": _one(
        N_("загружена за %(seconds)s; обещано не больше %(predicted_bytes)s, занято %(measured_bytes)s")
    ),
    "selftest_not_measured": _one(
        N_("загружена за %(seconds)s, но сколько заняла, неизвестно (обещано %(predicted_bytes)s)")
    ),
    "selftest_over_prediction": _one(
        N_("загружена за %(seconds)s, но заняла %(measured_bytes)s вместо обещанных %(predicted_bytes)s")
    ),
    "selftest_answer_ok": _many(*NN_("ответила: %(count)s кусок текста", "ответила: кусков текста %(count)s")),
    "selftest_answer_empty": _one(N_("ответ пришёл пустым")),
    "selftest_replace_ok": _one(
        N_("прежняя модель выгружена, вернулось %(freed_bytes)s за %(seconds)s; новая загружена на её место")
    ),
    "selftest_replace_held": _one(
        N_("модель заменена, но от прежней вернулось %(freed_bytes)s из %(expected_bytes)s за %(seconds)s")
    ),
    "selftest_not_replaced": _one(N_("прежняя модель не ушла или новая не заняла её места")),
    "selftest_refusal_ok": _one(
        N_("запрос на %(needed_bytes)s при доступных %(free_bytes)s отклонён, загруженная модель осталась")
    ),
    "selftest_not_refused": _one(N_("заведомо слишком большой запрос не отклонён")),
    "selftest_refused_late": _one(N_("запрос отклонён, но загруженная модель при этом пострадала")),
    "selftest_clean_ok": _one(N_("закончена без ошибок, вернулось %(freed_bytes)s; строк в отчёте: %(count)s")),
    "selftest_unload_ok": _one(
        N_("вернулось %(freed_bytes)s из %(expected_bytes)s за %(seconds)s, процессов не осталось")
    ),
    "selftest_unload_held": _one(
        N_("процессов не осталось, но вернулось %(freed_bytes)s из %(expected_bytes)s за %(seconds)s")
    ),
    "selftest_process_left": _one(N_("после выгрузки остались процессы: %(pids)s")),
    "selftest_advice_driver": _one(N_("Проверьте драйвер (nvidia-smi) и журнал сервера, затем повторите проверку.")),
    "selftest_advice_state": _one(
        N_("Проверьте владельца папки %(folder)s и место на диске или укажите другую в WARDEN_STATE_DIR.")
    ),
    "selftest_advice_store": _one(
        N_("Проверьте место на диске и файл базы данных; в журнале сервера сказано, что с ней.")
    ),
    "selftest_advice_chmod": _one(N_("Закройте доступ: %(command)s")),
    "selftest_advice_report": _one(N_("Повторите проверку; если не поможет, посмотрите журнал сервера.")),
    "selftest_advice_later": _one(N_("Дождитесь конца этой операции и повторите проверку: она занимает около минуты.")),
    "selftest_advice_room": _one(N_("Выгрузите ненужную модель и повторите проверку: сама она ничего не выгружает.")),
    "selftest_advice_held": _one(
        N_("Если память сервера сейчас меняют и другие, повторите, когда станет тише; иначе посмотрите, кто её держит.")
    ),
    "selftest_advice_emergency": _one(
        N_("Завершите эти процессы вручную или перезапустите панель: она уберёт остатки.")
    ),
}
"""What a self-test has seen, and what to do about it."""

WHY: Final[Mapping[str, Sentence]] = {
    "why_neighbour_grew": _one(
        N_(
            "Память занял сосед: %(who)s. Модели нужно %(gate_bytes)s (%(device)s), а места для неё стало "
            "%(left_bytes)s вместо %(room_bytes)s."
        )
    ),
    "why_estimate_low": _one(
        N_(
            "Оценка оказалась мала: ожидалось %(gate_bytes)s (%(device)s), модель держала %(held_bytes)s и запросила ещё, "
            "а доступно было %(free_bytes)s. Соседи тут ни при чём."
        )
    ),
    "why_estimate_exceeded": _one(
        N_(
            "Оценка оказалась мала: ожидалось %(gate_bytes)s (%(device)s), а модель заняла %(held_bytes)s, на "
            "%(excess_bytes)s больше. Соседи тут ни при чём."
        )
    ),
    "why_load_peak": _one(
        N_("Пик загрузки выше того, что было доступно: нужно %(gate_bytes)s, было %(room_bytes)s (%(device)s).")
    ),
    "why_kv_cache": _one(
        N_(
            "Не хватило места под кеш KV: модель держала %(held_bytes)s из ожидавшихся %(gate_bytes)s (%(device)s). "
            "Помогут контекст короче и меньший батч."
        )
    ),
    "why_process_limit": _one(
        N_(
            "На устройстве оставалось %(free_bytes)s (%(device)s), и этого по оценке хватало: памяти не дал предел самого "
            "процесса (ulimit, cgroup). Проверьте его."
        )
    ),
    "why_unknown": _one(N_("По показаниям того момента причину назвать нельзя.")),
}
"""Why a model ran out of memory, with the figures that say so."""

WAITING: Final[Mapping[str, Sentence]] = {
    "waits_memory": _one(
        N_(
            "%(device)s: недостаёт %(missing_bytes)s. Нужно %(needed_bytes)s и запас %(reserve_bytes)s, доступно "
            "%(free_bytes)s."
        )
    ),
    "waits_in_use": _one(
        N_("неизвестно, отвечает ли на запросы модель %(model)s (владелец %(owner)s); жду, пока она освободится.")
    ),
    "waits_in_use_counted": _many(
        *NN_(
            "модель %(model)s (владелец %(owner)s) отвечает на %(in_flight)s запрос, жду, пока она освободится.",
            "модель %(model)s (владелец %(owner)s) отвечает на %(in_flight)s запросов, жду, пока она освободится.",
        ),
        "in_flight",
    ),
    "waits_leased": _one(N_("модель %(model)s занята до %(until)s, владелец %(owner)s; жду, пока её освободят.")),
    "waits_others": _one(N_("место занимают модели других пользователей: %(models)s; жду, пока оно освободится.")),
    "waits_operation": _one(N_("%(device)s: идёт операция «%(kind)s», запустил пользователь %(actor)s в %(since)s.")),
    "waits_operation_model": _one(
        N_("%(device)s: идёт операция «%(kind)s», %(model)s, запустил пользователь %(actor)s в %(since)s.")
    ),
    "waits_cooldown": _one(
        N_("модель только что не загрузилась (неудач подряд: %(failures)s), пауза перед новой попыткой.")
    ),
    "waits_pause": _one(
        N_("место занял кто-то другой, пока шёл запуск (попытка %(tries)s из %(most)s); пауза перед следующей.")
    ),
    "waits_judgement": _one(N_("смотрю, есть ли место.")),
    "waits_unjudged": _one(
        N_(
            "не удалось проверить, есть ли место: ошибка программы (%(detail)s), подробности в журнале. Остальные заявки не "
            "задерживаются. Снимите эту и подайте её с другими настройками."
        )
    ),
    "ticket_satisfied": _one(
        N_("Модель %(model)s уже загружена, владелец %(owner)s. Пользуйтесь ею: вторая копия не запускалась.")
    ),
    "ticket_not_fetched": _one(
        N_("Место держалось %(seconds)s после сообщения, но модель никто не запустил. Оно отдано следующим.")
    ),
    "ticket_waited_long": _one(
        N_("Заявка ждала %(seconds)s, и места не нашлось. Подайте её снова, если модель ещё нужна.")
    ),
    "ticket_without_right": _one(
        N_(
            "Место есть, но пользователь %(actor)s больше не может загружать модели: роль изменилась или учётной записи нет."
        )
    ),
}
"""What a request waits for, and why it waits no more."""

FULLER: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "busy": ("busy_model", ("model", "step")),
    "instance_leased": ("instance_leased_for", ("reason",)),
    "instance_in_use": ("instance_in_use_counted", ("in_flight",)),
    "release_kept": ("release_kept_word", ("word",)),
    "release_given": ("release_given_word", ("word",)),
    "unexpected": ("unexpected_named", ("detail",)),
    "unknown_model": ("unknown_model_named", ("model",)),
    "device_unreadable": ("device_unreadable_named", ("device",)),
    "kv_cache_too_small": ("kv_cache_too_small_fits", ("fits_tokens",)),
    "context_too_long": ("context_too_long_limit", ("limit_tokens",)),
    "why_estimate_low": ("why_estimate_exceeded", ("excess_bytes",)),
    "launch_failed": ("launch_failed_logged", ("log",)),
    "measured": ("measured_as_expected", ("measured_bytes", "expected_bytes")),
    "waits_in_use": ("waits_in_use_counted", ("in_flight",)),
    "waits_operation": ("waits_operation_model", ("model",)),
    "way_out_unload_busy": ("way_out_unload_busy_counted", ("in_flight",)),
    "vllm_weights": ("vllm_weights_percent", ("percent",)),
    "vllm_kv_cache": ("vllm_kv_cache_sized", ("tokens", "kv_cache_bytes")),
    "vllm_graphs": ("vllm_graphs_percent", ("percent",)),
}
"""A fuller sentence for a code, and the values that it needs."""

SENTENCES: Final[Mapping[str, Sentence]] = {
    **REASONS,
    **STEPS,
    **OUTCOMES,
    **PLANS,
    **MODELS,
    **WEB,
    **LEASES,
    **KEEPING,
    **SELFTEST,
    **WHY,
    **WAITING,
    **ERRORS,
}

LEVELS: Final[Mapping[str, str]] = {
    Level.GOOD: N_("Достаточно"),
    Level.LOW: N_("Мало памяти"),
    Level.CRITICAL: N_("Критически мало"),
}
MODES: Final[Mapping[str, str]] = {Mode.TRANSFORMERS: "Transformers", Mode.VLLM: "vLLM"}
PRECISIONS: Final[Mapping[str, str]] = {
    Precision.AUTO: N_("Как в файлах"),
    Precision.FP16: "FP16",
    Precision.BF16: "BF16",
    Precision.FP32: "FP32",
    Precision.INT8: "INT8",
    Precision.INT4: N_("4 бита NF4"),
}
INSTANCE_STATES: Final[Mapping[str, str]] = {
    InstanceState.STARTING: N_("запускается"),
    InstanceState.LOADING: N_("загружается"),
    InstanceState.READY: N_("готова"),
    InstanceState.SILENT: N_("не отвечает"),
    InstanceState.STOPPING: N_("завершается"),
    InstanceState.STUCK: N_("не завершается"),
    InstanceState.DEAD: N_("завершилась сама"),
}
KINDS: Final[Mapping[str, str]] = {
    OperationKind.SWITCH: N_("Переключение"),
    OperationKind.UNLOAD: N_("Выгрузка"),
    OperationKind.CLEAN: N_("Очистка памяти"),
    OperationKind.EMERGENCY: N_("Экстренная очистка"),
    OperationKind.DEMO: N_("Создание демонстрационной модели"),
    OperationKind.STOP_CONTAINER: N_("Остановка контейнера"),
    OperationKind.SELFTEST: N_("Самопроверка"),
    OperationKind.RESTORE: N_("Повторная загрузка"),
}
OPERATION_STATES: Final[Mapping[str, str]] = {
    OperationState.RUNNING: N_("выполняется"),
    OperationState.SUCCEEDED: N_("успех"),
    OperationState.WARNING: N_("предупреждение"),
    OperationState.FAILED: N_("ошибка"),
    OperationState.CANCELLED: N_("отменена"),
    OperationState.ABANDONED: N_("оборвана"),
}
TICKET_STATES: Final[Mapping[str, str]] = {
    TicketState.WAITING: N_("ждёт"),
    TicketState.READY: N_("помещается"),
    TicketState.STARTING: N_("запускается"),
    TicketState.STARTED: N_("запущена"),
    TicketState.CANCELLED: N_("отозвана"),
    TicketState.EXPIRED: N_("срок вышел"),
    TicketState.FAILED: N_("не состоялась"),
}
STEP_NAMES: Final[Mapping[str, str]] = {
    StepName.PLAN: N_("План"),
    StepName.GRACE: N_("Отсчёт"),
    StepName.UNLOAD: N_("Выгрузка"),
    StepName.SETTLE: N_("Ожидание памяти"),
    StepName.CLEAN: N_("Уборка"),
    StepName.CHECK: N_("Проверка"),
    StepName.LAUNCH: N_("Запуск"),
    StepName.READY: N_("Готовность"),
    StepName.MEASURE: N_("Измерение"),
    StepName.CREATE: N_("Запись файлов"),
    StepName.END: N_("Завершение"),
    StepName.CHECKS: N_("Проверки"),
    StepName.ROLLBACK: N_("Возврат прежнего"),
}
STEP_STATES: Final[Mapping[str, str]] = {
    StepState.WAITING: N_("ждёт"),
    StepState.RUNNING: N_("идёт"),
    StepState.DONE: N_("сделано"),
    StepState.WARNING: N_("с замечанием"),
    StepState.FAILED: N_("не удалось"),
    StepState.SKIPPED: N_("пропущено"),
}
VERDICTS: Final[Mapping[str, str]] = {
    Verdict.FITS: N_("Поместится"),
    Verdict.TIGHT: N_("Впритык"),
    Verdict.REFUSED: N_("Нельзя"),
}
REFUSALS: Final[Mapping[str, str]] = {
    "not_enough_memory": N_("Не поместится"),
    "instance_in_use": N_("Занято"),
    "instance_leased": N_("Занято"),
    "already_loaded": N_("Уже загружена"),
    "confirmation_needed": N_("Подтвердите"),
    "mode_unavailable": N_("Недоступно"),
    "model_unsuitable": N_("Недоступно"),
}
"""A refused plan in a word, where its code says more than the verdict."""
FITS: Final[Mapping[str, str]] = {
    Fit.NOW: N_("поместится сейчас"),
    Fit.AFTER_UNLOADING: N_("поместится после выгрузки"),
    Fit.TOO_LARGE: N_("не поместится"),
    Fit.UNKNOWN: N_("неизвестно"),
}
SORTS: Final[Mapping[str, str]] = {"name": N_("по имени"), "size": N_("по размеру"), "fit": N_("что поместится")}
MARKS: Final[Mapping[str, str]] = {Mark.OK: N_("без ограничений"), Mark.LIMITED: N_("с ограничениями")}
CHECKS: Final[Mapping[str, str]] = {
    CheckName.MEMORY: N_("Цифры памяти"),
    CheckName.STATE: N_("Папка состояния и база"),
    CheckName.ADVICE: N_("Рекомендации"),
    CheckName.VLLM: N_("Режим vLLM"),
    CheckName.MODEL: N_("Крошечная модель"),
    CheckName.SWITCH: N_("Загрузка"),
    CheckName.ANSWER: N_("Ответ модели"),
    CheckName.REPLACE: N_("Переключение"),
    CheckName.REFUSAL: N_("Отказ при нехватке памяти"),
    CheckName.CLEAN: N_("Очистка"),
    CheckName.UNLOAD: N_("Выгрузка и возврат памяти"),
}
CHECK_MARKS: Final[Mapping[str, str]] = {
    CheckMark.OK: N_("в порядке"),
    CheckMark.WARNING: N_("замечание"),
    CheckMark.FAILED: N_("не пройдено"),
    CheckMark.SKIPPED: N_("пропущено"),
}
CAUSES: Final[Mapping[str, str]] = {
    Cause.NEIGHBOUR_GREW: N_("вырос сосед"),
    Cause.ESTIMATE_LOW: N_("оценка мала"),
    Cause.LOAD_PEAK: N_("пик загрузки"),
    Cause.KV_CACHE: N_("кеш KV"),
    Cause.PROCESS_LIMIT: N_("предел процесса"),
    Cause.UNKNOWN: N_("причина неизвестна"),
}
PHASES: Final[Mapping[str, str]] = {
    Phase.STARTING: N_("при запуске"),
    Phase.LOADING: N_("при загрузке весов"),
    Phase.KV_CACHE: N_("при выделении кеша KV"),
    Phase.ANSWERING: N_("при ответе на запросы"),
}
LEDGER: Final[Mapping[str, str]] = {
    LedgerKind.DRIVER: N_("драйвер"),
    LedgerKind.CONTAINER: N_("контейнер"),
    LedgerKind.LAUNCHER: N_("общие библиотеки моделей"),
    LedgerKind.WORKER: N_("служебный процесс"),
    LedgerKind.FOREIGN: N_("чужой процесс"),
    LedgerKind.UNATTRIBUTED: N_("не установлено"),
    LedgerKind.FREE: N_("свободно"),
}
SPANS: Final[Mapping[str, str]] = {Span.HOUR: N_("Час"), Span.WEEK: N_("Неделя")}
EVENT_MARKS: Final[Mapping[str, str]] = {
    EventMark.LOAD: N_("Загрузка"),
    EventMark.UNLOAD: N_("Выгрузка"),
    EventMark.SWITCH: N_("Переключение"),
    EventMark.CLEAN: N_("Очистка памяти"),
    EventMark.FAILURE: N_("Ошибка"),
    EventMark.CANCELLED: N_("Отмена"),
    EventMark.EMERGENCY: N_("Экстренная очистка"),
    EventMark.CONTAINER: N_("Остановка контейнера"),
    EventMark.SELFTEST: N_("Самопроверка"),
}
PARTS: Final[Mapping[str, str]] = {
    PartName.WEIGHTS: N_("веса"),
    PartName.KV_CACHE: N_("кеш KV"),
    PartName.ACTIVATION: N_("вычисления"),
    PartName.GRAPHS: N_("графы CUDA"),
    PartName.NON_TORCH: N_("библиотеки вне torch"),
    PartName.CONTEXT: N_("среда выполнения"),
}
SOURCES: Final[Mapping[str, str]] = {
    Source.HEADERS: N_("заголовки файлов"),
    Source.INDEX: N_("индекс файлов"),
    Source.SIZES: "config.json",
    Source.FILES: N_("размер файлов"),
    Source.RULE: N_("расчёт"),
    Source.PUBLISHED: N_("опубликованные замеры"),
    Source.MEASURED: N_("замеры на других серверах"),
    Source.LEARNED: N_("измерено здесь"),
    Source.DEVICE: N_("измерено здесь с другими моделями"),
    Source.GUESS: N_("предположение"),
    Source.NOTHING: N_("здесь не бывает"),
}
CONFIDENCES: Final[Mapping[str, str]] = {
    Confidence.HIGH: N_("высокая"),
    Confidence.MEDIUM: N_("средняя"),
    Confidence.LOW: N_("низкая"),
}
NOTES: Final[Mapping[str, str]] = {
    Note.UNKNOWN_ARCHITECTURE: N_("Архитектура незнакомая: посчитано, как для модели с обычным вниманием."),
    Note.UNSTATED_SIZES: N_(
        "В config.json нет размеров, от которых зависят кеш KV и вычисления; они угаданы по весам модели."
    ),
    Note.STATE_LAYERS: N_(
        "Часть слоёв держит для каждого запроса состояние постоянного размера; он посчитан по обычному правилу."
    ),
    Note.ENCODER: N_(
        "Кроме декодера есть кодировщик: его ключи и значения посчитаны для входа длиной во весь контекст."
    ),
    Note.NO_KV_CACHE: N_("Это кодировщик: кеша KV у него нет."),
    Note.WEIGHTS_FROM_INDEX: N_("Заголовков safetensors нет: объём весов взят из индекса."),
    Note.WEIGHTS_FROM_SIZES: N_("Заголовков safetensors нет: объём весов посчитан по размерам из config.json."),
    Note.WEIGHTS_FROM_FILES: N_("Веса не в safetensors: взят размер файлов на диске."),
    Note.DEQUANTIZED: N_("При загрузке transformers разворачивает эти квантованные файлы в 16 бит."),
    Note.EXPERTS_NOT_QUANTIZED: N_("Слитых экспертов bitsandbytes не квантует, поэтому модель уменьшится ненамного."),
    Note.EXPERTS: N_("Модель из экспертов: насколько ровно токены распределятся между ними, заранее неизвестно."),
    Note.EAGER_ATTENTION: N_(
        "Для этой модели transformers хранит оценки всех пар токенов: память растёт как квадрат длины вопроса."
    ),
    Note.MASKED_WINDOW: N_("Вопрос длиннее окна внимания: transformers строит маску для всех пар его токенов."),
    Note.VISION: N_("Изображения и звук займут больше, чем текст."),
    Note.DEVICE_MEMORY_UNKNOWN: N_(
        "Объём памяти видеокарты неизвестен: взяты пределы vLLM для карт с небольшой памятью."
    ),
}
"""What a person has to know about a footprint to judge it: whole sentences."""
STAGES: Final[Mapping[str, str]] = {
    "ask": N_("по просьбе"),
    "terminate": "SIGTERM",
    "kill": "SIGKILL",
    "verify": N_("проверка"),
}
ROLES: Final[Mapping[str, str]] = {
    Role.VIEWER: N_("наблюдатель"),
    Role.OPERATOR: N_("оператор"),
    Role.ADMINISTRATOR: N_("администратор"),
}

GROUPS: Final[Mapping[str, str]] = {
    Group.SIGNING: N_("входы"),
    Group.PEOPLE: N_("люди и доступ"),
    Group.MODELS: N_("модели"),
    Group.LEASES: N_("аренда и просьбы"),
    Group.WAITING: N_("очередь"),
    Group.SERVER: N_("сервер"),
    Group.ACCESS: N_("отказы в доступе"),
}
ACTIONS: Final[Mapping[str, str]] = {
    Action.SIGN_IN: N_("Вход"),
    Action.SIGN_OUT: N_("Выход"),
    Action.PASSWORD: N_("Смена пароля"),
    Action.SESSION_ENDED: N_("Завершение одного из своих входов"),
    Action.SESSIONS_ENDED: N_("Завершение всех входов человека"),
    Action.TOKEN_MADE: N_("Новый токен"),
    Action.TOKEN_REVOKED: N_("Отзыв токена"),
    Action.INVITATION_MADE: N_("Новое приглашение"),
    Action.INVITATION_DROPPED: N_("Отзыв приглашения"),
    Action.INVITATION_USED: N_("Регистрация по приглашению"),
    Action.PERSON_MADE: N_("Новая учётная запись"),
    Action.ROLE: N_("Смена роли"),
    Action.DISABLED: N_("Отключение учётной записи"),
    Action.ENABLED: N_("Включение учётной записи"),
    Action.REMOVED: N_("Удаление учётной записи"),
    Action.SWITCH: N_("Загрузка модели"),
    Action.UNLOAD: N_("Выгрузка модели"),
    Action.IDLE_UNLOAD: N_("Выгрузка модели без дела"),
    Action.DEMO: N_("Создание демонстрационной модели"),
    Action.LEASE: N_("Условия аренды"),
    Action.KEEP: N_("Отсрочка выгрузки без дела"),
    Action.RELEASE_ASKED: N_("Просьба освободить модель"),
    Action.RELEASE_ANSWERED: N_("Ответ на просьбу освободить"),
    Action.RELEASED_IN_SILENCE: N_("Модель освобождена: владелец не ответил"),
    Action.TICKET_MADE: N_("Заявка в очередь"),
    Action.TICKET_CANCELLED: N_("Отмена заявки"),
    Action.TICKET_RESUMED: N_("Заявка снова ждёт"),
    Action.TICKET_STARTED: N_("Запуск по заявке"),
    Action.CLEAN: N_("Очистка памяти"),
    Action.EMERGENCY: N_("Экстренная очистка"),
    Action.CONTAINER_STOPPED: N_("Остановка чужого контейнера"),
    Action.CANCEL: N_("Отмена операции"),
    Action.SELFTEST: N_("Самопроверка"),
    Action.ADDRESS: N_("Обращение без права"),
}
CAME: Final[Mapping[str, str]] = {
    Came.LOCAL: N_("без входа, на этом компьютере"),
    Came.SESSION: N_("по паролю"),
    Came.PROXY: N_("через общий вход"),
    Came.TOKEN: N_("по токену"),
    Came.NOBODY: N_("вход не выполнен"),
    Came.COMMAND_LINE: N_("командная строка"),
    Came.ITSELF: N_("автоматически"),
}
RESULTS: Final[Mapping[str, str]] = {
    Result.DONE: N_("выполнено"),
    Result.REFUSED: N_("отказано"),
    Result.FAILED: N_("не удалось"),
}
DETAILS: Final[Mapping[str, str]] = {
    Detail.ROLE_BEFORE: N_("роль была"),
    Detail.ROLE: N_("роль"),
    Detail.SCOPE: N_("права токена"),
    Detail.DAYS: N_("срок, дней"),
    Detail.HOURS: N_("срок, часов"),
    Detail.MODE: N_("режим"),
    Detail.LOAD_ANYWAY: N_("вопреки оценке памяти"),
    Detail.OVERRIDE_REASON: N_("причина взять чужое"),
    Detail.OWNER: N_("владелец"),
    Detail.LEASE: N_("аренда до"),
    Detail.EXTENDED: N_("продлена"),
    Detail.REASON: N_("для чего"),
    Detail.IDLE: N_("выгрузка без дела, минут"),
    Detail.WHY: N_("зачем"),
    Detail.ANSWER: N_("ответ"),
    Detail.WORD: N_("слова владельца"),
    Detail.ROLLBACK: N_("без возврата прежних моделей"),
    Detail.REPEATED: N_("повторов за минуту"),
}
RELEASE_ANSWERS: Final[Mapping[str, str]] = {
    ReleaseAnswer.KEEP: N_("оставить"),
    ReleaseAnswer.RELEASE: N_("освободить"),
}
PROBLEMS: Final[Mapping[str, str]] = {
    "already_loaded": N_("уже загружена"),
    "already_waiting": N_("уже ждёт в очереди"),
    "bad_request": N_("запрос непонятен"),
    "busy": N_("идёт другая операция"),
    "cannot_wait": N_("такая заявка не может ждать"),
    "cooling_down": N_("пауза после неудачной загрузки"),
    "cross_site": N_("запрос с чужого сайта"),
    "csrf": N_("форма устарела или чужая"),
    "device_unreadable": N_("показания памяти недоступны"),
    "engine_unavailable": N_("Docker не отвечает"),
    "error": N_("внутренняя ошибка"),
    "forbidden": N_("не позволяет роль"),
    "foreign_ticket": N_("чужая заявка"),
    "form_for_json": N_("запрос с чужого сайта"),
    "in_person": N_("токену этого нельзя"),
    "instance_in_use": N_("чужая модель отвечает на запросы"),
    "instance_leased": N_("модель арендована другим"),
    "confirmation_needed": N_("чужие модели не подтверждены"),
    "instance_stopping": N_("модель уже выгружается"),
    "invalid": N_("недопустимое значение"),
    "last_administrator": N_("это последний администратор"),
    "cannot_end": N_("модель сейчас не завершить"),
    "lease_pending": N_("условия аренды записываются"),
    "mode_unavailable": N_("режим недоступен"),
    "model_unsuitable": N_("модель не подходит"),
    "name_in_use": N_("имя занято"),
    "not_cancellable": N_("уже не отменить"),
    "nothing_to_restore": N_("нечего загружать снова"),
    "not_confirmed": N_("подтверждение не совпало"),
    "not_enough_memory": N_("не хватает памяти"),
    "not_found": N_("не найдено"),
    "not_owner": N_("чужая модель"),
    "not_stored": N_("не сохранено"),
    "not_yours": N_("чужая операция"),
    "nothing_asked": N_("никто не просил"),
    "own_account": N_("свою запись так не изменить"),
    "queue_full": N_("очередь полна"),
    "release_pending": N_("просьба уже есть"),
    "sign_in_failed": N_("не подошли имя или пароль"),
    "stopping": N_("Warden останавливается"),
    "store_unavailable": N_("база данных недоступна"),
    "ticket_ended": N_("заявка уже завершена"),
    "too_large": N_("запрос слишком велик"),
    "too_late": N_("выгрузка уже началась"),
    "too_many_attempts": N_("слишком много попыток"),
    "unauthorized": N_("вход не выполнен"),
    "unavailable": N_("сейчас невозможно"),
    "unknown_container": N_("нет такого контейнера"),
    "unknown_device": N_("нет такого устройства"),
    "unknown_instance": N_("такая модель не загружена"),
    "unknown_invitation": N_("приглашение не действует"),
    "unknown_model": N_("нет такой модели"),
    "unknown_operation": N_("нет такой операции"),
    "unknown_person": N_("нет такой учётной записи"),
    "unknown_ticket": N_("нет такой заявки"),
    "unknown_token": N_("нет такого токена"),
    "untrusted_host": N_("чужое имя сервера"),
    "weak_password": N_("слабый пароль"),
}
"""Why something was not done, in few words; the values that the whole sentence needs are not kept."""

FIELDS: Final[Mapping[str, str]] = {
    "mode": N_("Режим"),
    "model": N_("Модель"),
    "precision": N_("Точность"),
    "dtype": N_("Точность"),
    "quantization": N_("Квантизация"),
    "max_tokens": N_("Токены"),
    "batch_size": N_("Батч"),
    "device": N_("Где"),
    "devices": N_("Где"),
    "unload": N_("Выгрузить"),
    "lease": N_("Аренда"),
    "lease_until": N_("Аренда"),
    "lease_time": N_("Аренда до"),
    "reason": N_("Для чего"),
    "idle": N_("Выгрузка без дела"),
    "idle_unload_minutes": N_("Выгрузка без дела"),
    "why": N_("Зачем"),
    "word": N_("Ответ"),
    "prompt": N_("Вопрос"),
    "kind": N_("Вид"),
    "actor": N_("Кто"),
    "state": N_("Итог"),
    "before": N_("После операции"),
    "span": N_("Период"),
    "name": N_("Имя"),
    "label": N_("Название"),
    "role": N_("Роль"),
}
"""The form's names of the fields that an ``invalid`` can name."""


def word(table: Mapping[str, str], key: str | None) -> str:
    """Return the word for a member of a closed set; one that is not in ``table`` stands as it is."""
    if key is None:
        return formats.unknown()
    text = table.get(key)
    return key if text is None else gettext(text)


def say(message: Message) -> str:
    """Return ``message`` as a sentence of the language in force."""
    return capital(clause(message))


def clause(message: Message) -> str:
    """Return ``message`` as it stands inside a sentence or under a step's name: no capital made of its first letter."""
    code, needed = FULLER.get(message.code, (message.code, ()))
    if not all(message.params.get(name) for name in needed):
        code = message.code
    sentence = SENTENCES.get(code)
    return _unknown(message) if sentence is None else sentence.say(message.params)


def problem(message: Message) -> str:
    """Return why something cannot be chosen, as it stands after a colon: the full stop is the caller's."""
    return clause(message).removesuffix(".")


def _unknown(message: Message) -> str:
    values = ", ".join(f"{name}={value}" for name, value in message.params.items() if value is not None)
    return f"{message.code} ({values})" if values else message.code


def capital(text: str) -> str:
    """Return ``text`` with its first letter as a capital, unless that begins a name (``Qwen/…``, ``vLLM``)."""
    first = text.partition(" ")[0]
    return text[:1].upper() + text[1:] if first.islower() and not set("/._") & set(first) else text


def device_label(device_id: str | None) -> str:
    """Return a device's name for people: ``GPU 0``, or the host's RAM."""
    if device_id is None:
        return gettext("устройство")
    if device_id == "host":
        return gettext("оперативная память")
    kind, _, index = device_id.partition("-")
    return f"GPU {index}" if kind == "gpu" and index.isdigit() else device_id


def _devices(value: str) -> str:
    return ", ".join(device_label(part.strip()) for part in value.split(","))


def _reason(value: str) -> str:
    known = {**REASONS, **KEEPING}
    return gettext(known[value].one) if value in known else value


def _state(value: str) -> str:
    return word({**OPERATION_STATES, **INSTANCE_STATES}, value)


_BY_NAME: Final[Mapping[str, Callable[[str], str]]] = {
    "device": device_label,
    "devices": _devices,
    "known": _devices,
    "mode": lambda value: word(MODES, value),
    "kind": lambda value: word(KINDS, value),
    "step": lambda value: word(STEP_NAMES, value),
    "stage": lambda value: word(STAGES, value),
    "precision": lambda value: word(PRECISIONS, value),
    "field": lambda value: word(FIELDS, value),
    "reason": _reason,
    "code": _reason,
    "state": _state,
    "container": lambda value: value[:SHORT_ID],
    "needed": lambda value: word(ROLES, value),
    "role": lambda value: word(ROLES, value),
    "check": lambda value: word(CHECKS, value),
}
_LONGEST: Final = 300
SHORT_ID: Final = 12
"""Digits of a container's id that people are shown, as Docker does."""


def shown_param(name: str, value: Param) -> str:
    """Return one value of a message as the reader's language writes it."""
    if value is None:
        return formats.unknown()
    if isinstance(value, bool):
        return gettext("да") if value else gettext("нет")
    if isinstance(value, int | float):
        return _shown_number(name, value)
    text = value if len(value) <= _LONGEST else value[: _LONGEST - 1] + "…"
    shown = _BY_NAME.get(name)
    return text if shown is None else shown(text)


def _shown_number(name: str, value: float) -> str:
    if name.endswith("_bytes"):
        return formats.size(value)
    if name.endswith("idle_s"):
        return formats.rough_duration(value)
    if name == "seconds" or name.endswith("_s"):
        return formats.duration(value)
    if name in ("since", "until"):
        return formats.moment(value, value if name == "since" else time.time())
    if name == "pid":
        return str(int(value))
    return formats.number(value) if isinstance(value, int) else formats.number(value, 1)
