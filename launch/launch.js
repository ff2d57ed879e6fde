// Finds the program and runs it. All the rest is Go, in internal/command/action.
'use strict'

const { spawn, spawnSync } = require('node:child_process')
const crypto = require('node:crypto')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')

const root = path.dirname(__dirname)

// The folder with the program: that of the release that this version of the
// action belongs to or, where there is none, built from the action's checkout.
async function install() {
  const { version, files } = JSON.parse(fs.readFileSync(path.join(__dirname, 'release.json'), 'utf8'))
  if (!version) return build()
  const target = `${process.platform}-${process.arch}`
  const file = files[target]
  if (!file) throw new Error(`release ${version} has no program for ${target}`)
  const tools = process.env.RUNNER_TOOL_CACHE || process.env.RUNNER_TEMP || os.tmpdir()
  // the checksum is part of the name, so that nothing else can be taken for it
  const dir = path.join(tools, 'nixoci-action', version, `${target}-${file.sha256.slice(0, 16)}`)
  if (fs.existsSync(dir)) return dir
  return unpack(await download(file), dir)
}

async function download({ url, sha256 }) {
  console.log(`downloading ${url}`)
  if (!url.startsWith('https://')) throw new Error(`${url} is not HTTPS`)
  for (let tries = 1; ; tries++) {
    try {
      const response = await fetch(url, { signal: AbortSignal.timeout(120_000) })
      if (!response.ok) throw new Error(`downloading ${url}: the server answers ${response.status}`)
      const archive = Buffer.from(await response.arrayBuffer())
      const found = crypto.createHash('sha256').update(archive).digest('hex')
      if (found !== sha256) throw new Error(`${url} has the SHA-256 checksum ${found}, not ${sha256}`)
      return archive
    } catch (error) {
      if (tries === 3) throw error
      console.log(`${error.message}${error.cause ? `: ${error.cause.message}` : ''}; trying again`)
    }
  }
}

// Unpacks beside the folder and renames, so that the folder is whole if it is there.
function unpack(archive, dir) {
  fs.mkdirSync(path.dirname(dir), { recursive: true })
  const fresh = fs.mkdtempSync(`${dir}-`)
  const tar = spawnSync('tar', ['-xzf', '-', '-C', fresh], { input: archive, stdio: ['pipe', 'inherit', 'inherit'] })
  if (tar.status !== 0) {
    fs.rmSync(fresh, { recursive: true })
    throw new Error(`unpacking the release: tar ended with ${tar.error || tar.status}`)
  }
  try {
    fs.renameSync(fresh, dir)
  } catch (error) {
    if (!fs.existsSync(dir)) throw error
    fs.rmSync(fresh, { recursive: true }) // another job was faster
  }
  return dir
}

function build() {
  const dir = fs.mkdtempSync(path.join(process.env.RUNNER_TEMP || os.tmpdir(), 'nixoci-bin-'))
  console.log('::group::building the action from its checkout, which belongs to no release')
  const go = spawnSync('go', ['build', '-trimpath', '-buildvcs=false', '-o', dir + path.sep, './cmd/nixoci'], {
    cwd: root,
    env: { ...process.env, CGO_ENABLED: '0' },
    stdio: 'inherit',
  })
  console.log('::endgroup::')
  if (go.error && go.error.code === 'ENOENT') {
    throw new Error('this version of the action belongs to no release, and Go is missing to build it: use a released version, or place actions/setup-go before this step')
  }
  if (go.status !== 0) throw new Error(`building the action: go build ended with ${go.error || go.status}`)
  return dir
}

function run(dir, phase) {
  const child = spawn(path.join(dir, 'nixoci'), ['action', phase], { stdio: ['ignore', 'inherit', 'inherit'] })
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => child.kill(signal))
  child.on('error', fail)
  child.on('exit', (code, signal) => {
    if (signal) fail(new Error(`the action was ended by ${signal}`))
    else process.exitCode = code
  })
}

function fail(error) {
  const text = error.cause ? `${error.message}: ${error.cause.message}` : error.message
  console.log(`::error::${text.replaceAll('%', '%25').replaceAll('\r', '%0D').replaceAll('\n', '%0A')}`)
  process.exitCode = 1
}

module.exports = { fail, install, run }
