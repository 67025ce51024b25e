"""Credentials of many ecosystems, made up in the form of the real thing, and what only looks like them."""

from __future__ import annotations

from typing import Any


def _words(text: str) -> list[str]:
    return text.split()


def _lines(text: str) -> list[str]:
    return text.strip().split("\n")


# Names of credentials in many ecosystems, and ordinary names with the same words in them.
SECRET_NAMES = _words("""
    password Password PASSWORD passwd PASSWD passphrase passcode pwd pw db.pass db_pass dbPass db_pw dbPassword
    DB_PASSWORD userPassword PGPASSWORD MYSQL_PWD MYSQL_ROOT_PASSWORD REDISCLI_AUTH_PASSWORD password2 password_1
    password_prod password_str passwordHash passwordConfirm new_password old-password smtp.pass smtp_pass mail_pass
    ftp_pass admin_pass root_pass login_pass user_pass rootpw userpw secret SECRET secrets client_secret
    clientSecret CLIENT-SECRET consumer_secret app_secret webhook_secret SECRET_KEY secretKey secret_key_base
    jwt_secret shared_secret aws_secret_access_key AWS_SECRET_ACCESS_KEY secret_access_key s3_secret
    minio_secret_key django_secret_key token TOKEN hf_token HF_TOKEN hfToken huggingface_token hub_token
    HUGGING_FACE_HUB_TOKEN push_to_hub_token github_token GH_TOKEN GITLAB_TOKEN access_token accessToken
    refresh_token id_token_secret auth_token authToken X-Auth-Token x-vault-token VAULT_TOKEN bot_token botToken
    slack_token SLACK_BOT_TOKEN discord_token telegram_token api_token apiToken bearer_token bearer session_token
    csrf_token oauth_token oauth2_token wandb_token neptune_api_token NEPTUNE_API_TOKEN DATABRICKS_TOKEN
    MLFLOW_TRACKING_TOKEN MLFLOW_TRACKING_PASSWORD npm_token pypi_token twine_password personal_access_token
    service_token deploy_token user_token admin_token upload_token jwt jwt_token token_prod token_2 token_hf
    tokenGithub api_key apiKey APIKEY api-key x-api-key X-Api-Key apikey api_key_str api_key_prod api_key_2
    API_KEY_VALUE my_api_key openaiApiKey OPENAI_API_KEY ANTHROPIC_API_KEY wandb_key WANDB_API_KEY COMET_API_KEY
    app_key application_key account_key storage_account_key subscription_key Ocp-Apim-Subscription-Key access_key
    accessKey AWS_ACCESS_KEY_ID secret_api_key private_key privateKey ssh_private_key signing_key encryption_key
    master_key service_key deploy_key license_key hmac_key shared_access_key fernet_key client_key auth_key AUTHKEY
    authorization Authorization Proxy-Authorization cookie Cookie Set-Cookie cookies credentials credential
    aws_credentials db.credentials passwords api_keys apiKeys api_tokens auth.password database.password
    spring.datasource.password kaggle_key KAGGLE_KEY sas_token github_pat AZURE_DEVOPS_PAT totp_secret mfa_secret
    keystore_password ssl_key_password ansible_become_pass sudo_password pgpass seed_phrase recovery_phrase
    auth_token_v2 x_token my_token creds db_creds passwort kennwort contraseña pass_word client-key-data userpass
    userpwd passwrd api_secret apisecret HF_PASSWORD hub_password LDAP_BIND_PW proxy_pass zenodo_token
    figshare_token OPENROUTER_KEY openai_key psk wifi_psk preshared_key tok hf_tok motdepasse пароль 密码
    awssecretaccesskey mysecret bindpw authtoken token_for_hub password_of_ana mfa_seed activation_code
    datenbankpasswort CONTRASEÑA Lösenord HASŁO_DB geheimnis clave_secreta mot_de_passe_bdd api_schluessel cle_api
    senha_db storepass keypass sshpass nfspass adminpwd jenkinspw vncpasswd login_password_list passwort_datenbank
""")
ORDINARY_NAMES = _words("""
    max_tokens num_tokens n_tokens min_tokens tokens total_tokens tokens_per_sec tokens_seen max_new_tokens
    maxTokens special_tokens stop_tokens token_id token_ids eos_token_id bos_token_id pad_token_id tokenizer
    tokenizer_name tokenizer_path tokenizer_class tokenization token_type token_type_ids token_dim token_dropout
    token_length token_count token_embedding token_mixer token_shift cls_token clsToken pad_token eos_token
    mask_token unk_token sep_token class_token time_token null_token image_token register_token image_tokens
    patch_tokens text_token prompt_token start_token end_token key keys key_dim key_padding key_padding_mask
    keyframe keyframes keypoints keyword keywords key_size kv_heads query_key_dim qkv num_keys key_proj key_bias
    primary_key foreign_key sort_key partition_key cache_key cacheKey row_key group_key join_key index_key sort_keys
    dict_key state_key state_dict_key image_key label_key target_key input_key output_key monitor_key metric_key
    data_key feature_key column_key column_keys prng_key rng_key jax_key public_key publicKey object_key s3_key
    file_key path_key registry_key config_key lookup_key storage_key sample_key shard_key hash_key dedup_key
    batch_key ckpt_key pass pass_through passthrough num_passes passes forward_pass backward_pass n_pass bypass
    compass two_pass pass_rate pass_k low_pass high_pass band_pass lowpass pin pin_memory pinned spin
    pin_memory_device secretary secretary_problem secrets_manager secret_name secret_path secret_id_file author
    authors authority auth_required auth_type authenticated auth_method auth_url use_auth author_email
    password_length password_policy password_file password_min_length passwordless has_password require_password
    password_hint_enabled token_file token_path token_url token_endpoint token_name token_limit token_budget
    token_rate token_ttl token_expiry token_expires_in api_key_name api_key_file api_key_env api_key_path
    api_version api_url api_base access_level access_mode accessor session session_id session_name client_id
    clientId client_name user username userName user_id user_name login email private is_private private_dataset
    public license licence license_name monkey turkey hockey donkey keyboard keying key_rate keyed keystroke
    cookiecutter cookie_file cookie_jar_path credentials_path credentials_file credential_provider credentials_dir
    bearer_capacity signature signature_name model_signature hash hash_id hash_size git_commit commit sha sha256 md5
    checksum revision run_id experiment_id dataset_id cache_id cache_dir column_id trace_id uuid guid fingerprint
    seed seeds salt_ratio attention_keys num_key_value_heads key_value_heads kv_cache key_cache lr_schedule
    scheduler warmup_steps optimizer beta1 ema_decay pwd_dir credential_type webhook_enabled jwt_algorithm
    jwt_expiry encryption encrypted cipher certificate_path ssl_verify ssl_cert ssh_host ssh_port ssh_user
    private_key_path private_key_file ssh_key_path key_file keyfile key_path key_id kms_key_id access_key_name
    secret_count n_secrets tokenized tokenize token_level token_weight token_wise loss_per_token per_token_loss
    time_per_token bits_per_token ms_per_token token_drop token_merge token_merging sample_token scene_token
    token_map key_map key_vault tokens_of_vocab host_key_alias secret_ref_name routing_key overpass trespass allpass
    renderpass enclave chave_primaria
""")
# Made up, in the form of the real thing. What stands between the marks must be gone.
SECRET_TEXTS = _lines(r"""
the database password was «hunter2x» before
API_TOKEN -> «abc123def»
API_TOKEN → «abc123def»
PASSWORD%3D«hunter2»
client_secret is «abc123def»
Authorization: Bearer «abc.def-ghi_123»
authorization=bearer «correct-horse-battery»
curl -H 'Authorization: Token «my-little-word»' https://host/v1
Proxy-Authorization: Digest «username="bob", response="6629fae4"»
sent Bearer «abc.def-ghi_123» to the host
**Password:** «hunter2»
db_pass : «hunter2»
api_key = '''«abc-def»'''
<ns:password type="x">«hunter»</ns:password>
mssql+pyodbc:///?odbc_connect=UID%3Dbob%3BPWD%3D«hunter2»%3BDB%3Dx
https://host/cb?next=https%3A%2F%2Fhost%2F%3Ftoken%3D«hunter2x»
«HRKU-550e8400-e29b-41d4-a716-446655440000»
sk.«eyJ1IjoiYWJjIiwi.AbCdEfGhIjKl.AbCd»
the api_key "«abc123def456»" was revoked
CREATE USER ann IDENTIFIED BY '«hunter»'
<server><password>«hunter»</password></server>
<api_key>«abc123def»</api_key>
hf_token=«abc123def»
HF_TOKEN: «abc123def»
export OPENAI_API_KEY=«sk-abc123def456»
export DB_PASSWORD='«hunter2 and more»'
set PGPASSWORD=«hunter2»
password: «hunter2»
Password = «hunter2»
password="«correct horse»"
{"password": "«correct horse»", "user": "bob"}
{'api_key': '«abc123»'}
{"name": "HF_PASSWORD", "value": "«abcdef»"}
{"key": "token", "value": "«abc123def»"}
db.pass=«hunter2»
spring.datasource.password=«hunter2»
--password «hunter2»
train.py --hf-token «abc123» --lr 0.1
train.py --api-key=«abc123» --lr 0.1
train.py --hub.token «abc123»
wandb login --relogin --key=«0123456789abcdef0123456789abcdef01234567»
curl -u bob:«hunter2» https://host/x
curl --user bob:«hunter2» https://host/x
curl -H "Authorization: Bearer «abc123def456»" https://host
curl -H 'X-Api-Key: «abc123»' https://host
curl -H "Cookie: sessionid=«38afes7a8»" https://host
sshpass -p «hunter2» ssh bob@host
docker login -u bob -p «hunter2» registry.example
mysql -u root -p«hunter2» db
Authorization: Basic «dXNlcjpwYXNz»
Authorization: Token «9944b09199c62bcf9418ad846dd0e4bb»
Authorization: «abcdefgh123»
authorization: bearer «abcdefgh123»
Proxy-Authorization: Basic «dXNlcjpwYXNz»
Set-Cookie: session=«eyJ1c2VyIjoxfQ»; Path=/
X-Api-Key: «abc123»
x-auth-token: «abc123»
Ocp-Apim-Subscription-Key: «0123456789abcdef0123456789abcdef»
postgresql://bob:«hunter2»@db/x
postgresql+psycopg2://bob:«p@ss/w0rd»@db:5432/x
mysql://root:«hunter2»@127.0.0.1/x
mongodb+srv://bob:«hunter2»@cluster0.mongodb.net/?retryWrites=true
redis://:«hunter2»@localhost:6379/0
amqp://guest:«guest12»@rabbit:5672/
https://«t0ken123»@github.com/a/b.git
https://oauth2:«glpat-abcdefgh1234567890»@gitlab.com/a/b
https://«0123456789abcdef0123456789abcdef»@o1.ingest.sentry.io/42
http://user:«password»@host:5000/#/experiments/1
s3://AKIAIOSFODNN7EXAMPLE:«wJalrXUtnFEMI»@bucket/x
ftp://bob:«hunter2»@ftp.example/x
https://host/x?token=«abc123»&a=1
https://host/x?access_token=«abc123»
https://host/x?sv=1&sig=«aBc%2B»&se=2
https://acc.blob.core.windows.net/c?sp=r&SIG=«aBc%2B»
https://b.s3.amazonaws.com/k?X-Amz-Credential=«AKIA123%2F1»&X-Amz-Signature=«abcdef0123»&X-Amz-Date=1
https://storage.googleapis.com/b/k?X-Goog-Signature=«abcdef»
https://host/x?api_key=«abc123»
https://maps.googleapis.com/maps?key=«AIzaSyA1234567890abcdefghijklmnopqrstuv»
https://host/x?apikey=«abc123»&q=1
https://hooks.slack.com/services/«T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX»
https://discord.com/api/webhooks/«123456789012345678/abcDEF_ghi-jkl0123456789»
https://discordapp.com/api/webhooks/«123456789012345678/abcDEF_ghi-jkl0123456789»
https://acme.webhook.office.com/webhookb2/«1a2b3c4d-0000-1111-2222-333344445555@1a2b/IncomingWebhook/abc123/def»
https://outlook.office.com/webhook/«1a2b3c4d-0000-1111-2222-333344445555»
https://open.feishu.cn/open-apis/bot/v2/hook/«1a2b3c4d-0000-1111-2222-333344445555»
https://api.telegram.org/bot«123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1»/sendMessage
https://hooks.zapier.com/hooks/catch/«123456/abcdef»/
https://mattermost.example/hooks/«xxx1generatedkey9xxx»
DefaultEndpointsProtocol=https;AccountName=a;AccountKey=«abcd1234+/==»;EndpointSuffix=core.windows.net
Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=«abcd1234=»
Server=db;Database=x;User Id=sa;Password=«hunter2»;
Driver={ODBC};Server=db;Uid=sa;Pwd=«hunter2»;
host=db password=«hunter2» user=me
InstrumentationKey=x;api_key=«abc»
ghp_«a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2a1B2»
gho_«abcdefghijklmnopqrstuvwxyz0123456789»
github_pat_«11ABCDEFG0123456789_abcdefghijklmnop»
hf_«AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh»
hf_«abcdefghijklmnopqrstuvwxyzabcdefgh»
sk-«abcdefghijklmnopqrstuvwxyz123456»
sk-proj-«abcDEF1234567890abcdef»
sk-ant-api03-«abcDEF1234567890abcdef-AbC_dEf»
sk_live_«4eC39HqLyjWDarjtT1zdp7dc»
rk_test_«4eC39HqLyjWDarjtT1zdp7dc»
whsec_«4eC39HqLyjWDarjtT1zdp7dc»
AKIA«IOSFODNN7EXAMPLE»
ASIA«IOSFODNN7EXAMPLE»
xoxb-«123456789012-1234567890123-abcdefghijklmnopqrstuvwx»
xoxp-«1234567890-abcdef»
xapp-1-«A0123456789-1234567890-abcdef0123456789»
glpat-«abcdefgh1234567890»
glpat-«Ab_cdEF-gh12345678ij»
AIza«SyA1234567890abcdefghijklmnopqrstuv»
ya29.«a0AfH6SMBabcdefghij1234»
GOCSPX-«abcDEF1234567890abcdef»
npm_«abcdefghijklmnopqrstuvwxyz0123456789»
pypi-«AgEIcHlwaS5vcmcCJDAxMjM0NTY3LTg5YWItY2RlZi0wMTIz»
SG.«abcdefghijklmnopqrstuv.abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG»
dapi«0123456789abcdef0123456789abcdef»
dop_v1_«0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef»
r8_«AbCdEfGhIjKlMnOpQrStUvWxYz0123456789ABC»
gsk_«AbCdEfGhIjKlMnOpQrStUvWxYz0123456789ABC»
nvapi-«AbCdEfGhIjKlMnOpQrStUvWxYz0123456789ABC»
xai-«AbCdEfGhIjKlMnOpQrStUvWxYz0123456789ABC»
pplx-«0123456789abcdef0123456789abcdef»
shpat_«0123456789abcdef0123456789abcdef»
lin_api_«AbCdEfGhIjKlMnOpQrStUvWxYz0123456789ABC»
ntn_«12345678901AbCdEfGhIjKlMnOpQrStUvWxYz»
figd_«AbCdEfGhIjKlMnOpQrStUvWxYz0123456789ABC»
PMAK-«0123456789abcdef01234567-0123456789abcdef0123456789abcdef01»
glsa_«AbCdEfGhIjKlMnOpQrStUvWxYz012345_01234567»
NRAK-«ABCDEFGHIJKLMNOPQRSTUVWX012»
hvs.«CAESIAbCdEfGhIjKlMnOpQrStUvWxYz0123456789»
ATATT3«xFfGF0abcDEF1234567890abcdef»
dckr_pat_«AbCdEfGhIjKlMnOpQrStUvWxYz0»
sbp_«0123456789abcdef0123456789abcdef01234567»
lsv2_pt_«0123456789abcdef0123456789abcdef_0123456789»
pcsk_«AbCdEf_GhIjKlMnOpQrStUvWxYz0123456789ABC»
tvly-«AbCdEfGhIjKlMnOpQrStUvWxYz012345»
rubygems_«0123456789abcdef0123456789abcdef0123456789abcdef»
AGE-SECRET-KEY-1«QQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQ»
eyJhbGciOiJIUzI1NiJ9.«eyJzdWIiOiIxIn0.abc_def-123»
123456789:«AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1»
-----BEGIN RSA PRIVATE KEY-----\n«MIIEow»\n-----END RSA PRIVATE KEY-----
-----BEGIN OPENSSH PRIVATE KEY-----«b3BlbnNzaC1rZXktdjEA»
-----BEGIN PGP PRIVATE KEY BLOCK-----«lQOYBF»
login failed for user bob with password '«hunter2»'
authentication failed: password=«hunter2» rejected
ValueError: bad config {'db': {'password': '«hunter2»'}}
ConnectionError: http://bob:«hunter2»@host:5000/api/2.0 refused
KeyError in ['--token', '«abc123def»']
Config(lr=0.1, api_key='«abc123»', steps=3)
machine api.wandb.ai login user password «0123456789abcdef0123456789abcdef01234567»
<add key="apiKey" value="«abc123def»"/>
aws_secret_access_key = «wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY»
//registry.npmjs.org/:_authToken=«0123abcd-0123-abcd-0123-0123456789ab»
client_secret: "«abc~123def»"
bob:«hunter12Xyz9»@smtp.example.com
os.environ["HF_TOKEN"] = "«abc123»"
ENV HF_TOKEN «abc123def»
setx OPENAI_API_KEY «abc123def»
- name: HF_TOKEN\n  value: «abc123def»
smbclient //h/s -U bob%«hunter2»
openssl rsa -passin pass:«hunter2»
plink -pw «hunter2» bob@host
{\"password\": \"«hunter2»\"}
X-Token: «abc123def»
users:\n- name: a\n  user:\n    token: «CujApy5hMY9TADgmpM5B3Wv7»
password: >-\n  «abc123def»
api key: «abc123def»
API key = «abc123def»
access token: «abc123def»
Incorrect API key provided: «abc123def»
access key «aB3dE5fG» was refused
wandb login --relogin «0295b2a7a6bdf389707e9106331368779a3af39a»
vault login «aB3dE5fG7hI9jK1lM3nO»
ngrok authtoken «aB3dE5fG7hI9jK1lM3nO»
ldapsearch -x -w «hunter2x» -b dc=x
mongosh -u bob -p «hunter2x» db
zip -P «hunter2x» a.zip b
echo «hunter» | docker login --password-stdin
echo '«hunter»' | sudo -S ls
train.py --hf-token '«abc 123»' --lr 0.1
helm install x --set auth.password=«hunter2»
kubectl create secret generic x --from-literal=token=«abc123def»
dsn="Server=a;Password=«hunter2»;"
auth=('bob', '«hunter2»')
auth=HTTPBasicAuth('bob', '«hunter2»')
password=SecretStr('«hunter2»')
jdbc:oracle:thin:bob/«hunter2»@//db:1521/x
bob:«hunter2x»@proxy:3128
https://host/trigger/with/key/«aB3dE5fG7hI9jK1lM3nO»
https://host/x#access_token=«abc123»
some_v1_«aB3dE5fG7hI9jK1lM3nO5pQ7rS»
tskey-auth-«aB3dE5fG7hI9jK1lM3nO5pQ7rS»
$2b$12$«4Yp2kGsiDxDfFzbCXEzvIfkvlTROH4A1F7AGRqLadnFIq1LiDVWI9»
app:«lynxkettle»@tcp(10.0.0.3:3306)/runs
app:«lynxkettle»@db7:5432/runs
app:«Lynx8Kettle»@db7/runs
unzip -P «Marmot-Cello» a.zip
7z x a.7z -oout -p«MarmotCello»
redis-cli -h db7 -a «Marmot-Cello» ping
keytool -list -storepass «Marmot»
htpasswd -b /etc/users ann «Marmot-Cello»
htpasswd -nbB ann «Marmot-Cello»
http -a ann:«Marmot» x.y
ipmitool -H h -U a -P «Marmot-Cello» power on
login rejected (password was '«Otter)Punt»') again
tried with the token «x7Gt2Qw9» twice
secret: "«Otter(Punt36)»"
tskey-client-«kQz81VbTqLm2CNTRL-aZ4xW8vT2mQ6rK1yJd3Gm6Lp»
acme-auth-«kQz81VbTqLm2Cx-aZ4xW8vT2mQ6rK1yJd3Gm6Lp»
acme_live_«7fa91b0cd3e24466981b0d9c»
pat05pMkVKZcXngj5.«fdd1ca394de0f394245088f718dbc33a140d9bd4ee385a37e44626fde8754a75»
DOCKER_AUTH_CONFIG={"auths":{"r":{"auth":"«dXNlcjpwYXNzd29yZA==»"}}}
the token is `«ab12cd34»` now
log in with user bob and pw «hunter2x»
form-data; name="password"\nContent-Type: text/plain\n\n«hunter2x»
""")
ORDINARY_TEXTS = _lines(r"""
Authorization: required
Authorization: Bearer missing
a bearer of good news, with Basic blocks
https://host/x?filter=loss%3D0.1%26sort_key%3Dval2
<ns:key type="x">val_loss2</ns:key>
key : val_loss
the key 'conv1_weight2' is missing
unexpected token 'x1y2z3' in line 2
rsync -u /data/emnist:/mnt /out
usage: train.py [--hf-token HF_TOKEN] [--password PASSWORD]
Client(api_key=self._api_key, password=password)
the token is class0
<key>conv1_weight2</key>
<token_type>cls0x</token_type>
https://github.com/a/b
http://127.0.0.1:5000/#/experiments/1/runs/0123456789abcdef0123456789abcdef
http://127.0.0.1:5000/a@b
https://host/@user/x
ssh://git@github.com/a/b
git@github.com:a/b
a.b@c.de
see https://a.b/c and mail me@x.y
sqlite:////tmp/a@b/c.db
file:///home/me@work/x
s3://bucket/a@b
s3://bucket/token/key=3/part-0001.parquet
gs://my-bucket/secrets-dataset/v1
/data/secret/password/train
/home/bob/token=v2/ckpt.pt
C:\Users\bob\tokens\a.txt
~/.ssh/id_rsa
sk-learn-digits-classifier-version-2
hf_internal_testing_model
hf_dataset_emnist
hf-internal-testing/tiny-random-gpt2
glimpse-attention-model-large
gsk_learning_rate_schedule_cosine
xai-explainability-benchmark-suite-2024
npm_config_registry
pypi-server-mirror-of-the-lab-2024
AKIAtype
eyJ
dapi-docs
r8_model_small
pplx-lower-is-better
max_tokens=5
tokens=512
tokens: 512
token_dim=3
num_keys=3
lr=0.1
tokenizer=bpe
tokenizer: bert-base-uncased
pad_token='<pad>'
cls_token: [CLS]
eos_token="<|endoftext|>"
pass=2
pass: 2 of 3
passes: 12
token: <s>
expected a token: got '<'
invalid token: unexpected end of input
SyntaxError: unexpected token: ')' at line 3
Basic Understanding
Basic Training
bearer of bad news
the secret: more data
no password required
password: required
password must be set
Using password: YES
key=val
key: value
primary_key=id
sort_key: created_at
cache_key=9f86d081884c7d659a2feaa0c55ad015
partition_key: user_id
public_key=ssh-ed25519
state_key: model.encoder.0.weight
monitor_key=val/loss
0123456789abcdef0123456789abcdef01234567
9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
1a2b3c4d-0000-1111-2222-333344445555
sha256:abababababababababababababababababababababababababababababababab
md5=d41d8cd98f00b204e9800998ecf8427e
run-20260101_120000-a1b2c3d4
cache-1c80317fa3b1799d.arrow
resnet50.a1_in1k-0123456789abcdef.safetensors
timm/vit_base_patch16_224.augreg2_in21k_ft_in1k
stabilityai/stable-diffusion-xl-base-1.0
google/ddpm-cifar10-32
UNet2DConditionModel
ResNet50FeatureExtractorV2
mlflow_ddpm.model.unet.UNet
torch.optim.AdamW
DDPMScheduler(num_train_timesteps=1000, beta_schedule='linear')
CosineAnnealingLR(T_max=100)
train.py --max-tokens 512 --num-keys 3
train.py --key-dim 64 --pass-through
train.py --tokenizer bpe --lr 0.1
docker run -u 1000:1000 -p 8080:80 image
mpirun -np 4 -p 2 python train.py
2026-11-25T20:29:41Z
12:34:56
{'key': 'value', 'token_id': 3}
{"name": "lr", "value": "0.1"}
{"key": "loss", "value": "0.123456789"}
{"name": "max_tokens", "value": "512"}
data/train/0001.tar
s3_key=data/train/shard-0001.tar
secretary=none
author=Jane Doe
author: jane-doe-2000
license: apache-2.0
session_id=abc123
client_id=my-client
username=bob
user: bob
https://host/x?page=2&sort=key&tokens=5
https://host/x?key=name
https://docs.example.com/webhooks/getting-started
https://github.com/pre-commit/pre-commit-hooks/tree/v4.5.0
https://huggingface.co/docs/hub/security-tokens
Basic UNetModel v2
Basic DDPMScheduler v2
Bearer TokenAuth
unknown token: HelloWorld
HF_TOKEN missing
HF_TOKEN is not set
auth: sha256
mailto:jane.doe@example.com
contact:jane@example.org
registry/img:v1@sha256:abababab
compare tokens: a=1 b=2
rng_key=threefry2x32-seed-0001
scheduler_key=cosine_with_restarts_3
lr schedule: warmup 500, cosine to 1e-6
beta_start=0.0001, beta_end=0.02
CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 10.76 GiB total capacity)
KeyError: 'token'
KeyError: 'password'
password=${DB_PASSWORD}
token: $HF_TOKEN
api_key={{ secrets.API_KEY }}
password=None
token=true
HF_TOKEN=
api_key=os.environ["API_KEY"]
token=getenv('HF_TOKEN')
key_padding_mask=None, need_weights=False
x_t = sqrt(alpha_bar) * x_0 + sqrt(1 - alpha_bar) * eps
rank 0: token throughput 1234.5/s
epoch 3: loss=0.1234 pass=1
***
postgresql://***@host/db?password=***
nginx: proxy_pass http://backend:8080
forward pass: 12.3 ms
two-pass: 3
passport: none
compass=north
--no-password --lr 1
password_file=/run/secrets/db
token_file: /var/run/token
credentials=~/.aws/credentials
ssh_key=~/.ssh/id_ed25519
private_key: certs/server.key
api_key_file=./key.txt
cookie_jar=/tmp/cookies.txt
auth=none
auth: oauth2
auth_type=basic
signature: (double x) -> double
best model: epoch=12-val_loss=0.0123.ckpt
trust_remote_code=True
0x7f3a2b1c4d5e
tensor([0.1, 0.2], device='cuda:0')
<mlflow_ddpm.tracker.MetricsTracker object at 0x7f3a2b1c4d5e>
model-0123456789abcdef0123456789abcdef01234567.pt
run_0123456789abcdef0123456789abcdef
diffusers_models_unets_UNet2DConditionModelOutputV2
sha512-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0Pw==
https://github.com/a/hooks/tree/v1
https://react.dev/reference/hooks/usestate18
https://h/api/v1/keys/list
https://drive.google.com/file/d/1a2B3c4D5e6F7g8H9i0JkLmNoPqRsTuVw/view
arn:aws:secretsmanager:eu-west-1:1:secret:hf1
access token lifetime 3600s
api key is required for gpt4o1
password policy is in force
private keys stay in vault1
kubectl get secret hf-token1 -o yaml
unzip -p data1.zip file1.csv
openssl sha256 data1.tar
docker login registry1.example.com
echo v1234 | tee stdin.log
postgresql://mlflow@db.internal:5432/mlflow
pytorch:cuda12x@sha256:4567890123abcdef
mysql -h db7 -P 3306 -u root -p runs
redis-cli -p 6379 ping
with the token embeddings2 frozen
use token class12x for cond
live_0123456789abcdef01234567.ckpt
""")
# What stands between the marks must be gone, and everything else must stay.
SECRET_CONFIGS: list[dict[str, Any]] = [
    {
        "yaml": "db:\n  passwords:\n    - «hunter»\n  lr: 1",
        "text": "secrets:\n- «hunter»\nlr: 1\nmy_credentials:\n  «a: b»\n",
    },
    {
        "csv": "user,password\nbob,«hunter2»\nann,«walrus8»\n\nx,y1z2w3",
        "tabs": "host\tapi_key\nh1\t«abc12def»",
        "quoted": 'user,password\nann,«walrus8»\n"bob, jr",«hunter2»\ncarol,«pa55word»',
        "uneven": "user,password\nann\nbob, jr,«hunter2»\n# run2024x\ncarol,«pa55word»,\ndave,«walrus8»",
        "yaml": "password: «password»\nlr: 1",
        "command": "run --password «password» --hf-token HF_TOKEN",
        "code": "secret='«secret»', api_key=self._api_key",
        "markdown": "| name | API key |\n|------|---|\n| bob | `«abc12def»` |\n| ann | none |\n\nprose",
    },
    {
        "yaml": "apiVersion: v1\ndata:\n  «db: aHVudGVy»\nkind: Secret\n",
        "error": "bad text: 'A=1\\nDB_PASSWORD=«hunter2»'",
        "headers": {"X-Consul-Token": "«abc12def»"},
        "refused": "api_key\n  Too short [type=x, input_value='«abc12def»', a=b]",
    },
    {"kind": "Secret", "metadata": {"name": "db"}, "stringData": {"user": "bob", "db": "«abc»"}},
    {"auth": "«bob/hunter2x»", "license_key": "«K7Q2-9XWT-PL3M»"},
    {"pass_db": "«hunter»", "env": [{"param": "api_key", "default": "«abc»"}, {"label": "api-key", "data": "«abc»"}]},
    {"db": {"pass": "«hunter2»", "host": "db.example", "port": 5432, "user": "bob"}},
    {"passwords": ["«one-two-3»", "«four-five»"]},
    {"tokens": {"hf": "«abc123def456ghi7»"}},
    {"env": [{"name": "HF_PASSWORD", "value": "«abcdef»"}, {"name": "LR", "value": "0.1"}]},
    {"headers": [{"key": "token", "value": "«abc123def»"}]},
    {"headers": {"Authorization": "«abc»", "X-Api-Key": "«abc»", "Accept": "text/html"}},
    {"headers": [["Authorization", "«Bearer abc»"], ["Accept", "text/html"]]},
    {"secrets": {"a": {"b": ["«x»", "«yy»"]}, "path": "/run/x"}},
    {"credentials": {"username": "bob", "password": "«x»", "type": "basic"}},
    {"credentials": {"a": "«x»"}},
    {"argv": ["train.py", "--hf-token", "«abc»", "--lr", "0.1", "--password=«abc»", "--max-tokens", "5"]},
    {"auth": ["bob", "«hunter2»"]},
    {"auth": "«bob:hunter»"},
    {"basic_auth": "«bob:hunter»"},
    {"login": {"user": "bob", "pw": "«hunter2»"}},
    {"smtp": {"host": "mail", "pass": "«word»"}},
    {"user": "bob", "pass": "«hunter2»"},
    {"cookies": {"sessionid": "«38afes»"}},
    {"aws": {"access_key": "«abc»", "secret_key": "«def»", "region": "eu-west-1"}},
    {"openai": {"key": "«abc123def456»"}},
    {"wandb": {"key": "«0123456789abcdef»", "project": "ddpm"}},
    {"hub": {"token": "«abc»", "repo": "a/b"}},
    {"password": "«12345678»"},
    {"webhook": "«https://example.com/in/abc123»"},
    {"cmd": "login «correct-horse-42»", "password": "«correct-horse-42»", "out": "/runs/correct-horse-42/x"},
    {"dsn": "postgresql://«bob:hunter2x9»@db/x", "note": "try «hunter2x9» again"},
    {"weather_token": "«aB3dE5fG7hI9jK1lM3»"},
    {"mapbox_key": "«aB3dE5fG7hI9jK1lM3»"},
    {"envs": [{"key": "SMTP_PASSWORD", "val": "«abcdef»"}], "kv": {"label": "api_token", "default": "«abc»"}},
    {"cmd": ["curl", "-u", "«bob:hunter2»", "https://example.com"]},
    {"mot_de_passe": "«abcdef»"},
    {
        "argv": ["sshpass", "-p", "«hunter2x»", "ssh"],
        "cmd": ["wandb", "login", "«0123456789abcdef0123456789abcdef01234567»"],
    },
    {"argv": ["docker", "login", "-u", "a", "-p", "«hunter2x»"]},
    {"env": [{"Name": "DB_PASSWORD", "Value": "«abcdef»"}], "kv": [{"k": "api_key", "v": "«abc123def»"}]},
    {"headers": [["X-Api-Key", "«abc123def»"]], "fields": [{"type": "password", "content": "«abcdef»"}]},
    {"tokens": {"ci": {"read": "«oxskb6uxh7oyreej6r2e26w6hkkk»"}}, "refresh_tokens": ["«aB3dE5fG7hI9jK1lM3»"]},
    {"api_key_ana": "«aB3dE5fG7hI9jK1lM3»", "wifi": {"ssid": "lab-5G", "psk": "«abcdef»"}, "pin_code": "«482913»"},
    {"card": {"pin": "«7392»"}, "serial_key": "«SM0O5-R888K-4HAQB»"},
    {"PAGERDUTY_ROUTING_KEY": "«c9be7d259412388a55e1dce739c6e1fb»", "password": "«Kiwi(7)»"},
    {"passwords": ["«platypus.Viola33»", "«otter.Cello»"], "argv": ["unzip", "-P", "«Marmot-Cello»", "a.zip"]},
    {"tokens": '{"ci": {"read": "«oxskb6uxh7oyreej6r2e26w6hkkk»"}}', "a": '{"secrets": {"b": {"c": "«x»"}}, "n": 3}'},
    {"dump": "db.example:5432:runs:bob:«hunter2x»"},
    {"key": ["«-----BEGIN EC PRIVATE KEY-----»", "«k3LmJgRF»", "«-----END EC PRIVATE KEY-----»"]},
]
ORDINARY_CONFIGS: list[dict[str, Any]] = [
    {
        "csv": "token,count\nhello1x,12\npad,a\n",
        "markdown": "| token | loss |\n|---|---|\n| class_a | ab12c |",
        "prose": "the user, the password,\nthe host, and port80a,",
        "yaml": "kind: ConfigMap\ndata:\n  db: aHVudGVy\n",
        "kind": "ConfigMap",
        "data": {"url": "a"},
        "auth": "oauth/v2",
    },
    {"token": "char", "client_key": "client_0", "user_token": "user_id", "session_key": "session_id", "pass": "low"},
    {
        "token": "word",
        "license_key": "apache-2.0",
        "password": "required",
        "auth": "sha256",
        "passwords": 3,
        "login": "bob",
    },
    {"auth": "oauth2", "secret": None, "password": False, "credentials": "default", "shortcut_key": "ctrl+k"},
    {"credentials": "~/.aws/credentials", "rng_key": "threefry2x32-seed-0001", "hash_key": "md5-of-files-v2-00"},
    {"partition_key": "region=eu-west-1/day=01", "state_dict_key": "model.ema_unet_v2.state", "user": "1000:1000"},
    {"s3_key": "datasets/emnist/v1/train.tar.gz", "monitor_key": "val/loss_epoch", "hotkey": "ctrl+k1"},
    {"image_key": "jpg;png", "tokens": ["<s>", "</s>", "abc123def"], "keys": ["a", "b1"], "trigger_token": "sks123abc"},
    {"options": [{"name": "token", "default": "cls"}, {"name": "key", "value": "conv1x"}], "argv": ["-u", "bob"]},
    {
        "columns": ["api_key", "user"],
        "names": ["password", "token"],
        "required": ["AWS_ACCESS_KEY_ID", "HF_HOME12", "X_1"],
        "inputs": ["user_token", "class10"],
        "pin": 4096,
    },
    {
        "api_key_ana": "word",
        "credentials": "env",
        "sample_token": "0123456789abcdef0123456789abcdef",
        "key_vault": "kv-1",
    },
    {"argv": ["train.py", "-p", "small-v2x9", "-u", "bob"], "storage_key": "ckpt/f82e2dafe40a", "otp_issuer": "lab"},
    {"options": [{"id": "token", "type": "str", "default": "class10x"}], "tokens": {"pad": "[PAD]", "train": "1.2B"}},
    {"extra": '{"lr": 0.001,  "tokens": [1, 2], "cache_key": "9f86d081884c7d659a2feaa0c55ad015"}', "deep": "[" * 5000},
    {
        "password_hashing": "argon2id",
        "secret_store": "projects/p1/secrets/hf",
        "password": "load(cfg)",
        "lowpass": "fir4x2",
    },
    {"cache_key": "9f86d081884c7d659a2feaa0c55ad015", "row_key": "1a2b3c4d-0000-1111-2222-333344445555"},
]
