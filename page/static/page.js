'use strict'
// The pages work without this. It adds buttons that copy and, where the pages
// are files, the search.

function copyButtons() {
  const said = document.createElement('div')
  said.className = 'hidden'
  said.setAttribute('role', 'status')
  document.body.append(said)
  for (const box of document.querySelectorAll('.copy')) {
    const button = document.createElement('button')
    button.type = 'button'
    button.textContent = 'Copy'
    button.addEventListener('click', async () => {
      const text = box.querySelector('code').textContent
      const done = await copy(text, box)
      button.textContent = done ? 'Copied' : 'Selected'
      said.textContent = done ? 'Copied' : 'Selected; copy it with your keyboard'
      setTimeout(() => { button.textContent = 'Copy'; said.textContent = '' }, 2000)
    })
    box.classList.add('ready')
    box.append(button)
  }
}

async function copy(text, box) {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch { // not permitted, or a plain HTTP address that is not this machine
    getSelection().selectAllChildren(box.querySelector('code'))
    return false
  }
}

// The list of all store paths: {"up": …, "paths": [[hash part, name, NAR size,
// file size, closure, added, reason], …], "reasons": […]}.
function search(form) {
  const query = form.elements.q
  const sort = form.elements.sort
  const table = document.querySelector('table.paths tbody')
  const found = document.querySelector('.found')
  if (!table) return
  const pager = document.querySelector('.pager')
  const before = { rows: [...table.children], found: found.textContent }
  const shown = 200
  let all
  const load = () => all ??= fetch(form.dataset.static).then((r) => {
    if (!r.ok) throw new Error(r.status)
    return r.json()
  })

  async function show() {
    const text = query.value.trim().toLowerCase().replace(/^.*\//, '')
    if (!text && sort.value === 'name') {
      table.replaceChildren(...before.rows)
      found.textContent = before.found
      if (pager) pager.hidden = false
      return
    }
    let list
    try {
      list = await load()
    } catch {
      all = undefined
      found.textContent = 'The search needs paths.json, which could not be read. The list below is all of it.'
      return
    }
    const words = text.split(/\s+/)
    let hits = list.paths.filter(([hash, name]) => {
      const n = name.toLowerCase()
      return words.every((w) => n.includes(w)) || words.length === 1 && (text.length >= 6 && hash.startsWith(text) || `${hash}-${n}`.startsWith(text) && text.length > 32)
    })
    const column = { nar: 2, file: 3, closure: 4, added: 5 }[sort.value]
    if (column) hits = hits.toSorted((a, b) => b[column] - a[column])
    table.replaceChildren(...hits.slice(0, shown).map((p) => row(p, list.reasons)))
    found.textContent = hits.length === 0 ? 'Nothing is found.'
      : `${hits.length.toLocaleString('en')} store path${hits.length === 1 ? '' : 's'}${hits.length > shown ? `, the first ${shown} are shown` : ''}`
    if (pager) pager.hidden = true
  }

  let wait
  const soon = () => { clearTimeout(wait); wait = setTimeout(show, 120) }
  query.addEventListener('input', soon)
  sort.addEventListener('change', show)
  form.addEventListener('submit', (e) => { e.preventDefault(); show() })
  const asked = new URLSearchParams(location.search)
  query.value = asked.get('q') || query.value
  if (query.value) show()
}

function row([hash, name, nar, file, closure, added, reason], reasons) {
  const tr = document.createElement('tr')
  const th = document.createElement('th')
  th.scope = 'row'
  th.className = 'name'
  const a = document.createElement('a')
  a.href = `path/${hash}.html`
  a.textContent = name
  const short = document.createElement('span')
  short.className = 'hash'
  short.textContent = hash.slice(0, 8)
  th.append(a, ' ', short)
  tr.append(th)
  const cell = (className, label, text) => {
    const td = document.createElement('td')
    td.className = className
    td.dataset.label = label
    td.textContent = text
    tr.append(td)
  }
  cell('n', 'NAR size', bytes(nar))
  cell('n', 'compressed', bytes(file))
  if (closure) cell('n', 'closure', bytes(closure)) // there is none in a very large cache
  cell('t', 'added', new Date(added * 1000).toISOString().slice(0, 10))
  cell('why', 'kept by', reasons[reason])
  return tr
}

function bytes(n) {
  if (n < 1000) return `${n} B`
  let unit = -1
  for (; n >= 999.5 && unit < 5; unit++) n /= 1000
  return `${n.toFixed(n < 99.95 ? 1 : 0)} ${'kMGTPE'[unit]}B`
}

copyButtons()
for (const form of document.querySelectorAll('form[data-static]')) search(form)
