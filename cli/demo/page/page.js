// The demo's page: one login, the film by HLS (or as it is, where the servers cannot transcode), a
// WebSocket, and what a viewer would see of it all. It knows one address and nothing of the servers; which
// of them answered it reads from the header that the demo's door adds.

const show = (id, text) => {
  document.getElementById(id).textContent = text;
};
const device = `page-${Math.random().toString(36).slice(2)}`;
const film = document.getElementById("film");
let token = "";
let requests = 0;
let errors = 0;
let moves = 0;
let replica = "";

function authorization() {
  const own = `Client="Jellybloom demo", Device="Browser", DeviceId="${device}", Version="1.0"`;
  return `MediaBrowser ${own}${token === "" ? "" : `, Token="${token}"`}`;
}

function sawError(what) {
  errors += 1;
  show("errors", `${errors}, the last one: ${what}`);
}

function heard(explanation) {
  const [name = ""] = (explanation ?? "").split(";");
  if (name === "") return;
  if (replica !== "" && replica !== name) moves += 1;
  replica = name;
  show(
    "replica",
    `server ${name}${moves === 0 ? "" : `, after ${moves} change${moves === 1 ? "" : "s"}`}`,
  );
}

async function call(method, path, body) {
  requests += 1;
  show("requests", requests);
  const headers = { authorization: authorization() };
  if (body !== undefined) headers["content-type"] = "application/json";
  const answer = await fetch(path, {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  heard(answer.headers.get("x-jellybloom-explain"));
  if (!answer.ok) throw new Error(`${method} ${path.split("?")[0]} was answered ${answer.status}`);
  const text = await answer.text();
  return text === "" ? undefined : JSON.parse(text);
}

function listen() {
  const address = `${location.origin.replace(/^http/, "ws")}/socket`;
  const socket = new WebSocket(`${address}?api_key=${token}&deviceId=${device}`);
  let messages = 0;
  socket.onopen = () => show("socket", "open");
  socket.onmessage = () => {
    messages += 1;
    show("socket", `open, ${messages} messages`);
  };
  socket.onclose = () => {
    show("socket", "closed");
    sawError("the WebSocket was closed");
  };
  setInterval(() => socket.send('{"MessageType":"KeepAlive"}'), 20_000);
}

const profile = {
  MaxStreamingBitrate: 1_500_000,
  DirectPlayProfiles: [],
  TranscodingProfiles: [
    { Type: "Video", Container: "ts", Protocol: "hls", VideoCodec: "h264", AudioCodec: "aac" },
  ],
};

async function watch(item) {
  const whole = `/Videos/${item}/stream?static=true&mediaSourceId=${item}`;
  film.loop = true;
  if (document.documentElement.dataset.play === "direct" || !window.Hls?.isSupported()) {
    film.src = whole;
    return "";
  }
  const info = await call("POST", `/Items/${item}/PlaybackInfo`, {
    DeviceProfile: profile,
    MaxStreamingBitrate: profile.MaxStreamingBitrate,
  });
  const hls = new window.Hls();
  hls.on(window.Hls.Events.FRAG_LOADED, () => {
    requests += 1;
    show("requests", requests);
  });
  hls.on(window.Hls.Events.ERROR, (_, { fatal, details }) => {
    // Two encodes meet with some milliseconds between them; the player steps over that and plays on.
    if (fatal || !details.startsWith("buffer")) sawError(details);
  });
  hls.loadSource(info.MediaSources[0].TranscodingUrl);
  hls.attachMedia(film);
  return info.PlaySessionId;
}

document.getElementById("login").onsubmit = async (event) => {
  event.preventDefault();
  try {
    const login = await call("POST", "/Users/AuthenticateByName", {
      Username: document.getElementById("name").value,
      Pw: document.getElementById("password").value,
    });
    token = login.AccessToken;
    document.getElementById("login").remove();
    listen();
    const list = await call("GET", "/Items?Recursive=true&IncludeItemTypes=Movie");
    const item = list.Items[0].Id;
    const session = await watch(item);
    await film.play();
    setInterval(() => {
      const ticks = Math.round(film.currentTime * 10_000_000);
      call("POST", "/Sessions/Playing/Progress", {
        ItemId: item,
        PlaySessionId: session,
        PositionTicks: ticks,
      }).catch((error) => sawError(error.message));
    }, 2000);
    setInterval(() => call("GET", "/Users/Me").catch((error) => sawError(error.message)), 500);
  } catch (error) {
    sawError(error.message);
  }
};

film.ontimeupdate = () => {
  const seconds = Math.floor(film.currentTime);
  show("position", `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`);
};
