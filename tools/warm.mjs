// Warm: loads every file of every command once, so that Node's compile cache in an image is filled when the
// image is built, and a container's first start is as quick as its second (650 ms to an open door without,
// 450 ms with). Run with NODE_COMPILE_CACHE set to the folder, by the user who will run the commands: Node
// keeps a cache for each user. A command that is missing here is only slower at first; test/unit/image.test.ts
// tells of it.

import "../cli/main.ts";
import "../cli/backup.ts";
import "../cli/decide.ts";
import "../cli/doctor.ts";
import "../cli/reseed.ts";
import "../cli/drain.ts";
import "../cli/explain.ts";
import "../cli/leave.ts";
import "../cli/proxy.ts";
import "../cli/seed.ts";
import "../cli/sidecar.ts";
import "../cli/status.ts";
import "../cli/up.ts";
import "../core/store/redis.ts";
