"""Settings: where each comes from, and what is refused."""

import pytest

from novantra_lite import Invalid, NovantraLite, Settings


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("database", "register.db", "register.db"),
        ("threads", "4", 4),
        ("busy_timeout", "2.5", 2.5),
        ("busy_timeout", "3", 3.0),
        ("rate_limits", "off", False),
        ("rate_limits", "False", False),
        ("rate_limits", "0", False),
        ("finding_updates", "on", True),
        ("finding_updates", " TRUE ", True),
        ("finding_updates", "1", True),
        ("webhook_private_targets", "10.0.0.0/8, fd00::/8", ("10.0.0.0/8", "fd00::/8")),
        ("webhook_private_targets", "", ()),
    ],
)
def test_the_environment_gives_a_setting_in_the_type_of_its_default(name, text, value):
    environment = {f"NOVANTRA_LITE_{name.upper()}": text}

    settings = Settings.read(environment)

    assert getattr(settings, name) == value
    assert type(getattr(settings, name)) is type(value)


def test_a_keyword_goes_before_the_environment_and_that_before_the_default():
    environment = {"NOVANTRA_LITE_THREADS": "4", "NOVANTRA_LITE_TOKEN_LIFE": "60"}

    settings = Settings.read(environment, threads=8)

    assert (settings.threads, settings.token_life, settings.cursor_life) == (8, 60, 172_800)


def test_a_variable_that_others_know_counts_where_the_own_one_is_not_set():
    environment = {
        "VAULT_ADDR": "https://vault.lan:8200",
        "VAULT_TOKEN": "hvs.theirs",
        "NOVANTRA_LITE_VAULT_TOKEN": "hvs.own",
        "VAULT_ROLE_ID": "role",
        "NOVANTRA_LITE_VAULT_ROLE_ID": "",
        "VAULT_SECRET_ID": "secret",
        "VAULT_AUTH_METHOD": "APPROLE",
    }

    settings = Settings.read(environment, vault_secret_id="given")

    assert settings.vault_address == "https://vault.lan:8200"
    assert settings.vault_token == "hvs.own"
    assert (settings.vault_role_id, settings.vault_secret_id) == ("", "given")
    assert settings.vault_auth_method == "APPROLE"


@pytest.mark.parametrize("name", ["vault_token", "vault_role_id", "vault_secret_id"])
def test_credentials_do_not_show_where_settings_are_printed(name):
    settings = Settings(**{name: "correct horse"})

    assert "horse" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "text"), [("THREADS", "many"), ("BUSY_TIMEOUT", "soon"), ("RATE_LIMITS", "offf")]
)
def test_a_text_that_its_setting_cannot_mean_is_refused_by_name(name, text):
    environment = {f"NOVANTRA_LITE_{name}": text}

    with pytest.raises(Invalid) as refusal:
        Settings.read(environment)

    assert name.lower() in str(refusal.value)
    assert text in str(refusal.value)


def test_an_unknown_setting_is_refused_by_name():
    with pytest.raises(TypeError, match="colour"):
        NovantraLite(colour="red")


def test_the_key_does_not_show_where_settings_are_printed():
    settings = Settings(key="correct horse battery staple")

    assert "horse" not in repr(settings)


def test_every_setting_is_explained_in_one_sentence():
    for name, existing in Settings.KNOWN.items():
        assert existing.explanation.endswith("."), name


def test_private_targets_that_are_no_networks_are_refused_at_the_start():
    with pytest.raises(Invalid, match=r"webhook_private_targets needs networks such as"):
        NovantraLite(webhook_private_targets=("intranet",))


@pytest.mark.parametrize(
    ("name", "text"),
    [("threads", "0"), ("shutdown_grace", "-1"), ("busy_timeout", "nan"), ("scm_timeout", "1e400")],
)
def test_a_number_out_of_bounds_is_refused_at_the_start(name, text):
    with pytest.raises(Invalid, match=f"The setting {name} needs a number from [01] on"):
        Settings.read({f"NOVANTRA_LITE_{name.upper()}": text})
